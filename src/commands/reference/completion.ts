/** `torus ctl completion SHELL`: a script for the shell, which asks this executable what may stand where. */
import { type AnyCommand, leaf, metaArgs, type Metadata, UsageError, withMetadata } from "../cli";
import { candidates, type Names } from "./candidates";
import { readTree } from "./tree";

const SCRIPTS: Readonly<Record<string, string>> = {
  bash: `# torus: source <(torus ctl completion bash)
_torus() {
  local line="\${COMP_LINE:0:COMP_POINT}" words=() one
  # Backslashes are taken out: a name may hold spaces.
  IFS=' ' read -a words <<< "$line"
  [[ "$line" == *' ' && "$line" != *'\\ ' ]] && words+=('')
  local current="\${words[-1]}"
  # Bash replaces only what follows its last word break; an @ it replaces too.
  local prefix="\${current%"\${COMP_WORDS[COMP_CWORD]}"}"
  prefix="\${prefix%@}"
  [[ "$prefix" == "$current" ]] && prefix=''
  COMPREPLY=()
  while IFS= read -r one; do
    printf -v one %q "\${one#"$prefix"}"
    COMPREPLY+=("$one")
  done < <("\${words[0]}" ctl completion words -- "\${words[@]:1}" 2>/dev/null)
}
complete -o default -F _torus torus
`,
  zsh: `#compdef torus
# torus: source <(torus ctl completion zsh)
_torus() {
  local -a found
  found=("\${(@f)$("\${words[1]}" ctl completion words -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "\${found[1]}" ]]; then compadd -a found; else _files; fi
}
compdef _torus torus
`,
  fish: `# torus: torus ctl completion fish | source
function __torus_candidates
  set -l words (commandline -opc) (commandline -ct)
  $words[1] ctl completion words -- $words[2..-1] 2>/dev/null
end
complete -c torus -a '(__torus_candidates)'
`,
};

/** A cluster that cannot be reached has no names to offer, and a key press is no place for an error. */
async function orNone(found: Promise<readonly string[]>): Promise<readonly string[]> {
  try {
    return await found;
  } catch {
    return [];
  }
}

function namesOf(flags: Parameters<typeof withMetadata>[0]): Names {
  const ask = (work: (metadata: Metadata) => Promise<readonly string[]>) => {
    let names: readonly string[] = [];
    const asked = withMetadata(flags, async (metadata) => {
      names = await work(metadata);
    });
    return orNone(asked.then(() => names));
  };
  return {
    volumes: () => ask(async ({ volumes }) => (await volumes.list()).volumes.map(({ name }) => name)),
    snapshots: (volume) =>
      ask(async ({ snapshots }) => (await snapshots.list(volume)).snapshots.map(({ name }) => name)),
    peers: () => ask(async ({ peers }) => (await peers.list()).peers.map(({ peerId }) => peerId)),
  };
}

/** `root`: the tree that is completed. */
export function completionCommand(root: AnyCommand): AnyCommand {
  return leaf({
    name: "completion",
    description: "Print a script that completes commands, options and names of volumes, snapshots and peers",
    examples: ["source <(torus ctl completion bash)", "torus ctl completion fish | source"],
    args: {
      shell: { type: "positional", description: "bash, zsh or fish", required: true },
      ...metaArgs,
    },
    variadic: "the words so far, asked by the scripts",
    async run(args, rest) {
      if (args.shell === "words") {
        const tree = await readTree(root, ["torus"]);
        for (const one of await candidates(tree, rest, namesOf(args))) console.log(one);
        return;
      }
      const script = SCRIPTS[args.shell];
      if (script === undefined)
        throw new UsageError(`Cannot complete for "${args.shell}": give bash, zsh or fish`);
      process.stdout.write(script);
    },
  });
}
