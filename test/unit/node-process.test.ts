// A process that is started again when it dies, and killed when it does not stop.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { NodeProcess } from '../../broker/cli/node-process.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-process-'))
afterAll(() => rmSync(folder, { recursive: true }))

const program = (text: string): string => {
  const path = join(folder, `${text.length}.cjs`)
  writeFileSync(path, text)
  return path
}
/** What it serves is told, and then something becomes of it. */
const serves = 'process.send({ listen: [] });'

test('one that dies again and again is started again later each time; one that stands still is killed', async () => {
  const stands = program(`${serves} process.kill(process.pid, 'SIGSTOP')`)
  const dies = program(`${serves} process.disconnect()`)
  const waits: number[] = []
  const killed: string[] = []
  let path = dies
  let said = (): void => undefined
  const steady = new Promise<void>((resolve) => (said = resolve))
  const running = new NodeProcess(
    'n',
    () => fork(path),
    {
      onEnd: (_, how, againMs) => {
        expect(how).toBe('exit code 0')
        if (waits.push(againMs) === 3) path = stands
      },
      onServingAgain: () => (waits.length === 3 ? said() : undefined),
      onKill: (name) => killed.push(name),
    },
    { stopMs: 50, restartMs: 4, restartMsMax: 8 },
  )
  try {
    await running.start()
    await steady
    expect(waits).toEqual([4, 8, 8])
  } finally {
    await running.stop()
  }
  expect(killed).toEqual(['n'])
})

test('one that ended and waits to be started again is not, once it is told to stop', async () => {
  const dies = program(`${serves} process.disconnect()`)
  const spawned: unknown[] = []
  let ended = (): void => undefined
  const end = new Promise<void>((resolve) => (ended = resolve))
  const running = new NodeProcess(
    'n',
    () => {
      const child = fork(dies)
      spawned.push(once(child, 'exit'))
      return child
    },
    { onEnd: () => ended(), onServingAgain: () => undefined, onKill: () => undefined },
    { stopMs: 50, restartMs: 86_400_000, restartMsMax: 86_400_000 },
  )
  await running.start()
  await end
  await running.stop()
  expect(spawned).toHaveLength(1)
})
