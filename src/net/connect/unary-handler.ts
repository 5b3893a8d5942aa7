/**
 * The HTTP side of the storage service, for Bun.serve's fetch: Connect's unary form is a plain POST of the message,
 * so this is all that a stock Connect client needs, at a fraction of a stock handler's cost. It checks the envelope,
 * reads the body under a limit, hands the bytes to `call` (here or in another thread) and dresses the result.
 *
 * JSON is understood as well (`curl` and stock clients in JSON mode), by way of the generated code; compressed
 * requests are not.
 */
import { type DescMessage, fromBinary, fromJsonString, toBinary, toJsonString } from "@bufbuild/protobuf";
import { TorusError } from "../../base";
import { StorageService } from "../gen/storage_pb";
import { type ConnectCode, ConnectStorageError, refusal, type UnaryResult } from "./errors";
import { REQUEST_BYTES_MAX } from "./limits";
import { SERVICE_PATH, SERVICE_PATH_PATTERN } from "./procedures";

export interface UnaryHandlerOptions {
  /** Answers one call; rejects only when the answering thread is gone. */
  readonly call: (procedure: string, body: Uint8Array) => Promise<UnaryResult>;
  readonly requestBytesMax?: number;
  /** Request bodies of all callers together; above it calls are refused as "resource_exhausted". */
  readonly bytesUnderWayMax?: number;
  /** A body was larger than allowed, or claimed to be. */
  readonly onTooLarge?: (message: string) => void;
}

const BYTES_UNDER_WAY_MAX = 256 * 1024 * 1024;

/** HTTP status of each Connect code, as the Connect protocol has it. */
const HTTP_STATUS: Readonly<Record<ConnectCode, number>> = {
  invalid_argument: 400,
  permission_denied: 403,
  not_found: 404,
  failed_precondition: 400,
  resource_exhausted: 429,
  unimplemented: 501,
  deadline_exceeded: 504,
  unavailable: 503,
  internal: 500,
};

type Encoding = "proto" | "json";

/** Answers undefined for a path that is not of this service. */
export type UnaryHandler = (request: Request) => Promise<Response> | undefined;

export function createUnaryHandler(options: UnaryHandlerOptions): UnaryHandler {
  const handler = new Handler(options);
  return (request) => {
    const path = new URL(request.url).pathname;
    if (path.startsWith(SERVICE_PATH)) return handler.answer(path.slice(SERVICE_PATH.length), request);
    return SERVICE_PATH_PATTERN.test(path) ? Promise.resolve(refuseVersion()) : undefined;
  };
}

function refuseVersion(): Response {
  const message = `Cannot answer: this peer speaks ${StorageService.typeName} alone; peers and clients must be of the same version`;
  return errorResponse("unimplemented", message);
}

function errorResponse(code: ConnectCode, message: string): Response {
  return Response.json({ code, message }, { status: HTTP_STATUS[code] });
}

class Handler {
  readonly #requestBytesMax: number;
  readonly #bytesUnderWayMax: number;
  #bytesUnderWay = 0;

  constructor(private readonly options: UnaryHandlerOptions) {
    this.#requestBytesMax = options.requestBytesMax ?? REQUEST_BYTES_MAX;
    this.#bytesUnderWayMax = options.bytesUnderWayMax ?? BYTES_UNDER_WAY_MAX;
  }

  async answer(procedure: string, request: Request): Promise<Response> {
    if (request.method !== "POST")
      return new Response("this service is called by POST\n", { status: 405, headers: { allow: "POST" } });
    const encoding = encodingOf(request.headers.get("content-type"));
    if (encoding === undefined)
      return new Response("send application/proto or application/json\n", {
        status: 415,
        headers: { "accept-post": "application/proto, application/json" },
      });
    return respond(await this.#result(procedure, request, encoding), procedure, encoding);
  }

  async #result(procedure: string, request: Request, encoding: Encoding): Promise<UnaryResult> {
    const version = request.headers.get("connect-protocol-version");
    if (version !== null && version !== "1")
      return refusal("invalid_argument", `Cannot answer: Connect protocol version ${version} is not known`);
    const compression = request.headers.get("content-encoding") ?? "identity";
    if (compression !== "identity")
      return refusal(
        "unimplemented",
        `Cannot read a request with content-encoding ${compression}: send it plain`,
      );
    const timeoutMs = timeoutOf(request.headers.get("connect-timeout-ms"));
    if (timeoutMs === undefined) return refusal("invalid_argument", "Cannot read connect-timeout-ms");
    const announced = Number(request.headers.get("content-length") ?? 0);
    if (!(announced <= this.#requestBytesMax)) return this.#tooLarge(`claims ${announced} bytes`);
    // A body without a length may take all it is allowed.
    const reserved = announced > 0 ? announced : this.#requestBytesMax;
    if (this.#bytesUnderWay + reserved > this.#bytesUnderWayMax)
      return refusal("resource_exhausted", "Cannot answer now: too many requests are under way; try again");
    this.#bytesUnderWay += reserved;
    try {
      const body = await readBody(request, this.#requestBytesMax);
      if (body === undefined) return this.#tooLarge("does not end");
      return await withDeadline(this.#call(procedure, body, encoding), timeoutMs);
    } catch (error) {
      // The answering thread is gone or too slow: for the caller a passing matter. Anything else is a bug.
      if (!(error instanceof TorusError)) throw error;
      return refusal("unavailable", error.message);
    } finally {
      this.#bytesUnderWay -= reserved;
    }
  }

  #tooLarge(how: string): UnaryResult {
    this.options.onTooLarge?.(
      `Refused a call of the block service: its body ${how}, at most ${this.#requestBytesMax} bytes are read`,
    );
    return refusal("resource_exhausted", `Cannot read a request of more than ${this.#requestBytesMax} bytes`);
  }

  async #call(procedure: string, body: Uint8Array, encoding: Encoding): Promise<UnaryResult> {
    if (encoding === "proto") return this.options.call(procedure, body);
    const method = methodOf(procedure);
    if (method === undefined) return this.options.call(procedure, body);
    let message: Uint8Array;
    try {
      message = toBinary(method.input, fromJsonString(method.input, new TextDecoder().decode(body)));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return refusal("invalid_argument", `Cannot read a message: ${reason}`);
    }
    return this.options.call(procedure, message);
  }
}

function methodOf(
  procedure: string,
): { readonly input: DescMessage; readonly output: DescMessage } | undefined {
  return StorageService.methods.find((method) => method.name === procedure);
}

function encodingOf(contentType: string | null): Encoding | undefined {
  const type = contentType?.split(";", 1)[0]?.trim().toLowerCase();
  if (type === "application/proto") return "proto";
  return type === "application/json" ? "json" : undefined;
}

/** Infinity without a header; undefined for one that is no number of at most ten digits. */
function timeoutOf(header: string | null): number | undefined {
  if (header === null) return Number.POSITIVE_INFINITY;
  return /^\d{1,10}$/.test(header) ? Number(header) : undefined;
}

/** Undefined when the body is larger than allowed, whatever its headers said. */
async function readBody(request: Request, bytesMax: number): Promise<Uint8Array | undefined> {
  if (request.headers.has("content-length")) {
    const body = new Uint8Array(await request.arrayBuffer());
    return body.length > bytesMax ? undefined : body;
  }
  const chunks: Uint8Array[] = [];
  let lengthBytes = 0;
  for await (const chunk of request.body ?? []) {
    lengthBytes += chunk.length;
    if (lengthBytes > bytesMax) return undefined;
    chunks.push(chunk);
  }
  return new Uint8Array(Buffer.concat(chunks));
}

/** The operation itself goes on; its caller has said that it will not listen any more. */
async function withDeadline(result: Promise<UnaryResult>, timeoutMs: number): Promise<UnaryResult> {
  if (timeoutMs >= 2 ** 31) return result;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<UnaryResult>((resolve) => {
    timer = setTimeout(
      () => resolve(refusal("deadline_exceeded", `Not answered within ${timeoutMs} ms`)),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([result, late]);
  } finally {
    clearTimeout(timer);
  }
}

function respond(result: UnaryResult, procedure: string, encoding: Encoding): Response {
  if (!result.ok) return errorResponse(result.code, result.message);
  if (encoding === "proto")
    return new Response(result.body as Uint8Array<ArrayBuffer>, {
      headers: { "content-type": "application/proto" },
    });
  const method = methodOf(procedure);
  if (method === undefined)
    throw new ConnectStorageError("malformed", `Cannot answer: procedure ${procedure} has no schema`);
  const text = toJsonString(method.output, fromBinary(method.output, result.body));
  return new Response(text, { headers: { "content-type": "application/json" } });
}
