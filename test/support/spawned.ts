// A process that ends with its test, however that ends: also by a failed expectation, and by its timeout, when
// nothing of the test runs any more. What `up` has started ends by itself when `up` is gone.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { onTestFinished } from 'vitest'

/** As `spawn`, within a test. */
export const spawned = ((...given: Parameters<typeof spawn>): ChildProcess => {
  const child = spawn(...given)
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  })
  return child
}) as typeof spawn
