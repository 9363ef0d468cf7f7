// deploy/PUBLIC.md as a reader does it: every command of the page in its order, in one shell, in an empty home, and what it
// prints. Only its port numbers are others, so that two runs do not meet.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { findProgram } from '../../broker/cli/packages.ts'
import { mainPath } from '../support/cluster.ts'
import { readPids } from '../support/processes.ts'
import { freePort } from '../support/redis.ts'

const repository = fileURLToPath(new URL('../../', import.meta.url))
const page = readFileSync(join(repository, 'deploy/PUBLIC.md'), 'utf8')
const withinMs = 60_000

/** Commands, and what they print. */
const steps = [...page.matchAll(/```sh\n([^]*?)```(?:\n\n```text\n([^]*?)```)?/g)].map(
  ([, commands, printed = '']) => ({ commands: commands!, printed }),
)

test(
  'a public endpoint from scratch: every command of deploy/PUBLIC.md prints what stands below it',
  async () => {
    const home = mkdtempSync(join(tmpdir(), 'aedes-cluster-public-'))
    // `npm install -g` makes such a command
    const command = join(home, 'aedes-cluster')
    writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${mainPath}' "$@"\n`)
    chmodSync(command, 0o755)
    const ports = [...new Set(page.match(/(?<=:|port |-p |\s)(?:1[0-9]{4}|[68][0-9]{3})(?=[\s/)])/g))]
    const first = await freePort(ports.map((_, i) => i))
    const replaced = (text: string): string =>
      text.replaceAll(/\b\d{4,5}\b/g, (port) =>
        ports.includes(port) ? String(first + ports.indexOf(port)) : port,
      )
    const end = '-- the end of a step --'
    const script = `exec 2>&1\n${steps.map(({ commands }) => `${replaced(commands)}echo '${end}'\n`).join('')}`
    const haproxy = join(findProgram('haproxy')!, '..')
    const shell = spawn('bash', ['-euo', 'pipefail', '-c', script], {
      cwd: repository,
      env: {
        ...process.env,
        HOME: home,
        PATH: [home, haproxy, process.env.PATH].join(delimiter),
        AEDES_CLUSTER_ADMIN: undefined,
      },
      detached: true, // a process group of its own, to be ended whole
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    for (const stream of [shell.stdout, shell.stderr])
      stream.on('data', (chunk: Buffer) => {
        output += chunk.toString()
      })
    const timer = setTimeout(() => process.kill(-shell.pid!, 'SIGKILL'), withinMs)
    try {
      const [code] = (await once(shell, 'close')) as [number | null]
      // bash tells of a process that was killed
      const printed = output.replaceAll(/^bash: line \d+: .* Killed .*\n/gm, '').split(`${end}\n`)
      for (const [i, step] of steps.entries())
        expect(printed[i], `step ${i + 1} of ${steps.length}\n${step.commands}\n${output}`).toBe(step.printed)
      expect(code).toBe(0)
      const left = readPids().filter(({ command }) => command.includes(home))
      expect(left).toEqual([])
    } finally {
      clearTimeout(timer)
      try {
        process.kill(-shell.pid!, 'SIGKILL')
      } catch {
        // nothing of it is left
      }
      for (const name of ['redis.pid', 'haproxy.pid'])
        try {
          process.kill(Number(readFileSync(join(home, 'endpoint', name), 'utf8')), 'SIGKILL')
        } catch {
          // it was stopped in its turn
        }
      rmSync(home, { recursive: true, force: true })
    }
  },
  withinMs + 10_000,
)
