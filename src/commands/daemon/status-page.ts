/** The status page as it goes out: one HTML file with its style and script inside, embedded in the executable. */
import page from "./status-page.html" with { type: "text" };

export const STATUS_PAGE = page as unknown as string;

const digest = (tag: "script" | "style"): string => {
  const content = new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`).exec(STATUS_PAGE)?.[1] ?? "";
  return `'sha256-${new Bun.CryptoHasher("sha256").update(content).digest("base64")}'`;
};

/** Nothing but the page's own style and script runs, and it talks to nobody but this server. */
export const STATUS_PAGE_POLICY = [
  "default-src 'none'",
  `script-src ${digest("script")}`,
  `style-src ${digest("style")}`,
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");
