/**
 * Headless Chromium, spoken to by its own protocol: a page of any width, light or dark, of which one may ask anything
 * and take a picture. (A window of its command line cannot be as narrow as a phone.)
 */
import type { ManagedProcess } from "./process";
import { waitFor } from "./process";
import type { Scene } from "./scene";

const CALL_MS_MAX = 30_000;

export interface Look {
  readonly width: number;
  readonly height: number;
  readonly scheme: "light" | "dark";
}

interface Answer {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly entry?: { readonly level: string; readonly text: string } };
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export class Browser {
  /** What the page's console and the browser itself complained of. */
  readonly complaints: string[] = [];
  #nextId = 1;
  readonly #waiting = new Map<number, (answer: Answer) => void>();

  private constructor(
    private readonly process: ManagedProcess,
    private readonly socket: WebSocket,
  ) {
    socket.addEventListener("message", ({ data }) => {
      const answer = JSON.parse(String(data)) as Answer;
      if (answer.id !== undefined) this.#waiting.get(answer.id)?.(answer);
      else if (answer.method === "Log.entryAdded" || answer.method === "Runtime.exceptionThrown")
        this.complaints.push(JSON.stringify(answer.params));
    });
  }

  static async open(scene: Scene, look: Look): Promise<Browser> {
    const process = await scene.start("chromium", [
      ...[
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
      ],
      ...["--disable-background-networking", `--user-data-dir=${scene.path("chromium-profile")}`],
      ...["--remote-debugging-port=0", "about:blank"],
    ]);
    let origin = "";
    await waitFor("chromium to listen", () => {
      origin = /DevTools listening on ws:\/\/([^/]+)\//.exec(process.output())?.[1] ?? "";
      return origin !== "";
    });
    let address = "";
    await waitFor("chromium's page", async () => {
      const targets = (await (await fetch(`http://${origin}/json/list`)).json()) as {
        type: string;
        webSocketDebuggerUrl: string;
      }[];
      address = targets.find(({ type }) => type === "page")?.webSocketDebuggerUrl ?? "";
      return address !== "";
    });
    const socket = new WebSocket(address);
    await new Promise<void>((resolve, reject) => {
      socket.addEventListener("open", () => resolve());
      socket.addEventListener("error", () => reject(new Error(`Cannot speak to chromium at ${address}`)));
    });
    const browser = new Browser(process, socket);
    await browser.#call("Log.enable");
    await browser.#call("Runtime.enable");
    await browser.look(look);
    return browser;
  }

  async look({ width, height, scheme }: Look): Promise<void> {
    const metrics = { width, height, deviceScaleFactor: 1, mobile: width < 600 };
    await this.#call("Emulation.setDeviceMetricsOverride", metrics);
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    await this.#call("Emulation.setEmulatedMedia", { features });
  }

  async go(url: string): Promise<void> {
    await this.#call("Page.navigate", { url });
  }

  /** The value of an expression in the page. */
  async ask<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = (await this.#call("Runtime.evaluate", {
      expression,
      returnByValue: true,
    })) as { result: { value: T }; exceptionDetails?: { text: string } };
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${exceptionDetails.text}`);
    return result.value;
  }

  /** PNG. */
  async picture(): Promise<Uint8Array> {
    const { data } = (await this.#call("Page.captureScreenshot", { format: "png" })) as { data: string };
    return Uint8Array.fromBase64(data);
  }

  async close(): Promise<void> {
    this.socket.close();
    await this.process.stop();
  }

  #call(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`Chromium did not answer ${method}`)), CALL_MS_MAX);
      this.#waiting.set(id, ({ result, error }) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        if (error === undefined) resolve(result ?? {});
        else reject(new Error(`${method}: ${error.message}`));
      });
      this.socket.send(JSON.stringify({ id, method, params }));
    });
  }
}
