// How V8 collects the garbage of a node: two of its habits do not suit a broker, and go before its code is
// compiled. They are flags that are set at run time, since whoever starts `node` need not know them. A V8
// that does not know one says so and goes on.
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
