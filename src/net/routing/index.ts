/** Which protocol reaches which peer: see README.md. */
export { PeerRouter, type PeerRouterOptions, schemeOf } from "./peer-router";
