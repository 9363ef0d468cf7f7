// Loaded into every node that a test starts (node --import): ends the process by kill -9 at a point that the test names.
// Nothing runs after that, neither a callback nor a write of what is buffered.
import { subscribe } from 'node:diagnostics_channel'

/** Just before a script is sent to Redis, or just after its answer came and before anything is made of it. */
export interface FaultPoint {
  readonly script: string
  readonly when: 'before' | 'after'
}

let point = process.env.TEST_DIE_AT === undefined ? undefined : JSON.parse(process.env.TEST_DIE_AT) as FaultPoint
process.on('message', (next: FaultPoint) => { point = next })
const dieAt = (when: FaultPoint['when']) => (event: unknown): void => {
  if (point?.when === when && point.script === (event as { script: string }).script) process.kill(process.pid, 'SIGKILL')
}
subscribe('aedes-cluster:scriptBegins', dieAt('before'))
subscribe('aedes-cluster:script', dieAt('after'))
