/** What one NBD server counted since its start: plain numbers, read by the metrics page. */
import { Command } from "./protocol";

const COMMAND_NAMES = Object.entries(Command);

/** Names of commands by their number. */
export function commandNames(): readonly (string | undefined)[] {
  const names: (string | undefined)[] = [];
  for (const [name, command] of COMMAND_NAMES) names[command] = name;
  return names;
}

export class NbdStatistics {
  readonly #requestCounts = new Float64Array(COMMAND_NAMES.length);
  connectionsOpen = 0;
  connectionsTotal = 0;
  /** Connections closed at once because too many were open. */
  connectionsRefused = 0;
  readBytes = 0;
  writtenBytes = 0;
  /** Requests answered with an error. */
  errorCount = 0;

  countRequest(command: number): void {
    (this.#requestCounts[command] as number)++;
  }

  /** Requests tried, by command name. */
  requests(): Readonly<Record<string, number>> {
    return Object.fromEntries(
      COMMAND_NAMES.map(([name, command]) => [name, this.#requestCounts[command] ?? 0]),
    );
  }
}
