// vitest's global setup: installs what the suite drives besides Node, once, before any test file.
import { findProgram, installPackages } from '../../broker/cli/packages.ts'

export default function setup(): void {
  const missing = ['redis-server', 'haproxy', 'mosquitto', 'openssl'].filter(
    (program) => findProgram(program) === undefined,
  )
  if (missing.length > 0) installPackages(missing)
}
