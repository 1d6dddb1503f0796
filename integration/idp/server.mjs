// An OpenID Connect provider for tests: the npm package oidc-provider with its own login and
// consent pages, set up by a JSON file (see file in idp.go). It prints one line when it listens.
import { readFileSync } from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider from 'oidc-provider';

const read = () => JSON.parse(readFileSync(process.argv[2], 'utf8'));
const options = read();

const provider = new Provider(options.issuer, {
  clients: options.clients.map((c) => ({
    client_id: c.id,
    client_secret: c.secret || undefined,
    redirect_uris: c.redirect_uris,
    token_endpoint_auth_method: c.auth || (c.secret ? 'client_secret_basic' : 'none'),
    grant_types: ['authorization_code'],
    response_types: ['code'],
  })),
  jwks: { keys: [generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' })] },
  cookies: { keys: [randomUUID()] },
  claims: options.claims,
  conformIdTokenClaims: !options.id_token_claims,
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true } },
  // The file is read anew for each person, so that tests can change people.
  async findAccount(ctx, login) {
    const person = read().people[login];
    if (!person) return undefined;
    const { sub = login, ...claims } = person;
    return { accountId: login, claims: async () => ({ sub, ...claims }) };
  },
});
provider.proxy = options.issuer.startsWith('https:') && !options.cert_file;

const [host, port] = [options.host, options.port];
const server = options.cert_file
  ? https.createServer({ cert: readFileSync(options.cert_file), key: readFileSync(options.key_file) }, provider.callback())
  : http.createServer(provider.callback());
server.listen(port, host, () => console.log(`ready ${server.address().port}`));
