// vitest's global setup: installs what the suite drives besides Node, once, before any test file.
import { execFileSync } from 'node:child_process'
import { findProgram, installPackages } from '../../broker/cli/packages.ts'

/** Debian's, which has Debian's packages: another one may come first on the PATH. */
export const python = '/usr/bin/python3'

const packages: readonly (readonly [name: string, isThere: () => boolean])[] = [
  ...['redis-server', 'haproxy', 'mosquitto', 'openssl', 'prometheus'].map(
    (program) => [program, () => findProgram(program) !== undefined] as const,
  ),
  ['systemd', () => findProgram('systemd-notify') !== undefined], // and systemd-analyze
  ['mosquitto-clients', () => findProgram('mosquitto_rr') !== undefined],
  ['paho.mqtt.c-examples', () => findProgram('paho_c_sub') !== undefined],
  ['python3-paho-mqtt', () => imports('paho.mqtt.client')],
]

function imports(module: string): boolean {
  try {
    execFileSync(python, ['-c', `import ${module}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export default function setup(): void {
  const missing = packages.filter(([, isThere]) => !isThere()).map(([name]) => name)
  if (missing.length > 0) installPackages(missing)
}
