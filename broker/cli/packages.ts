// Programs that are not ours but that we drive: whether they are on this machine, and how they get there.
// `up` needs a Redis; the tests drive HAProxy and Mosquitto too. As root on Debian or Ubuntu they are
// installed by apt, otherwise the exact command is named. A service that a package would start by itself is
// kept from starting: we run our own.
import { execFileSync } from 'node:child_process'
import { accessSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { OperatorError } from '../operator-errors.ts'

/** The full path of `program`, looked for on the PATH and in /usr/sbin, which a user's PATH often lacks. */
export function findProgram(program: string): string | undefined {
  return [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin']
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

// asked by Debian's packages before they start a service; 101 = "do not"
const policyFile = '/usr/sbin/policy-rc.d'

/**
 * Installs Debian packages by apt.
 * @throws OperatorError (reason `programMissing`) with the command to run where apt or the right to use it is
 * missing
 */
export function installPackages(packages: readonly string[]): void {
  const list = packages.join(' ')
  if (process.getuid?.() !== 0 || findProgram('apt-get') === undefined) {
    throw new OperatorError(`is not installed: ${list}`, {
      reason: 'programMissing',
      field: 'PATH',
      value: undefined,
      hint: `Debian, Ubuntu: sudo apt-get install -y ${list} · macOS: brew install ${list.replace('redis-server', 'redis')} · Docker: docker run -p 6379:6379 redis:7 --appendonly yes, then aedes-cluster node --redis redis://127.0.0.1:6379`,
    })
  }
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const ownPolicy = !existsSync(policyFile)
  if (ownPolicy) writeFileSync(policyFile, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    execFileSync('apt-get', ['update', '-qq'], { env, stdio: ['ignore', 2, 2] })
    execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], {
      env,
      stdio: ['ignore', 2, 2],
    })
  } catch (error) {
    throw new OperatorError(`apt-get could not install ${list}`, {
      reason: 'programMissing',
      field: 'PATH',
      value: undefined,
      hint: `Look at its messages above, then run: apt-get install -y ${list}`,
      cause: error,
    })
  } finally {
    if (ownPolicy) rmSync(policyFile, { force: true })
  }
}
