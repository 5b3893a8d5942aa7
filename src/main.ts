/**
 * The executable. It runs the command that its name and its words ask for, prints an error as one line and ends
 * with the error's exit code. An error that nobody awaited ends the process the same way: state that an unknown
 * error has passed through is not trusted with data.
 */
import { dispatch, reportError, rootCommand, wordsFor } from "./commands/root";

const words = wordsFor(process.argv0, process.argv.slice(2));
const debug = words.includes("--debug");

function fail(error: unknown): never {
  const report = reportError(error, debug);
  console.error(report.text);
  process.exit(report.exitCode);
}

process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);

await run(words.length === 1 && words[0] === "-v" ? ["version"] : words);

/** Ends the process when the command is done, even if a library left a timer or a socket behind. */
async function run(command: readonly string[]): Promise<never> {
  try {
    await dispatch(rootCommand, command);
  } catch (error) {
    fail(error);
  }
  await new Promise<void>((resolve) => process.stdout.write("", () => resolve()));
  return process.exit();
}
