// Which version of aedes-cluster this is. No state.
import { readFileSync } from 'node:fs'

const packageUrl = new URL(
  `${import.meta.url.endsWith('.ts') ? '../' : '../../'}package.json`,
  import.meta.url,
)

export const version = (): string =>
  (JSON.parse(readFileSync(packageUrl, 'utf8')) as { version: string }).version
