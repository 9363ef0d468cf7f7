// How V8 collects the garbage of a node: some of its habits do not suit a broker. Two go before its code
// is compiled, by flags that are set at run time, since whoever starts `node` need not know them; they pay
// on Node 20, 22 and 24. One is for who starts the process. BENCHMARKS.md says what each costs ("What each
// Node costs"). A V8 that does not know a flag says so and goes on.
import { setFlagsFromString } from 'node:v8'

const flags = [
  // What survived when it was sampled once is allocated in the old generation from then on. A batch that is
  // waiting for Redis during a scavenge survives as a whole: in one process of five every message then became
  // garbage that only a full collection frees, and cost half as much again, for ever.
  '--no-allocation-site-pretenuring',
  // A full collection is due when the old generation has doubled. By itself V8 lets a small one grow by a few
  // MB, and counts the buffers that sockets read towards it, though scavenges free them: a busy node of 20 MB
  // collected all of them ten times a second.
  '--heap-growing-percent=100',
]

/** Sets them for this process. */
export function tuneCollector(): void {
  for (const flag of flags) setFlagsFromString(flag)
}

/**
 * What V8 heeds only when a process starts: arguments for Node. From 24 on its young generation may grow
 * to 128 MiB, 32 before: a busy node then takes 30 MB more, and is no faster for it. So many MiB for each
 * half of it are enough.
 */
export const startFlags = (version = process.versions.node): readonly string[] =>
  Number.parseInt(version, 10) >= 24 ? ['--max-semi-space-size=8'] : []
