// jose, openid-client and simple-oauth2 against the token service: each grant, and what ends it. Prints what came of it.
import { createRemoteJWKSet, jwtVerify } from "jose";
import * as openid from "openid-client";
import { ClientCredentials, ResourceOwnerPassword } from "simple-oauth2";

const { issuer, id, secret, username, password } = JSON.parse(process.argv[2]);
const audience = "only_post";

async function openidClient() {
  const config = await openid.discovery(new URL(issuer), id, secret, openid.ClientSecretBasic(secret), {
    algorithm: "oauth2",
    execute: [openid.allowInsecureRequests],
  });
  const machine = await openid.clientCredentialsGrant(config, { scope: "data" });
  const user = await openid.genericGrantRequest(config, "password", { username, password });
  const refreshed = await openid.refreshTokenGrant(config, user.refresh_token);
  const described = await openid.tokenIntrospection(config, refreshed.access_token);
  await openid.tokenRevocation(config, refreshed.refresh_token);
  const after = await openid.tokenIntrospection(config, refreshed.access_token);
  await openid.tokenRevocation(config, machine.access_token);
  const machineAfter = await openid.tokenIntrospection(config, machine.access_token);
  return {
    scope: machine.scope,
    username: described.username,
    active: [described.active, after.active, machineAfter.active],
    verified: await joseVerified(config.serverMetadata().jwks_uri, user.access_token),
  };
}

async function joseVerified(jwksUri, token) {
  const keys = createRemoteJWKSet(new URL(jwksUri));
  const { payload } = await jwtVerify(token, keys, { issuer, audience, typ: "at+jwt", algorithms: ["ES256"] });
  return payload.sub;
}

async function simpleOAuth2() {
  const config = { client: { id, secret }, auth: { tokenHost: issuer, tokenPath: "/token", revokePath: "/revoke" } };
  const machine = await new ClientCredentials(config).getToken({ scope: "data" });
  const user = await new ResourceOwnerPassword(config).getToken({ username, password });
  const refreshed = await user.refresh();
  await refreshed.revokeAll();
  const refused = await refreshed.refresh().then(() => "", (error) => error.data.payload.error);
  return { scope: machine.token.scope, hasExpired: machine.expired(), refused };
}

console.log(JSON.stringify({ openid: await openidClient(), simple: await simpleOAuth2() }));
