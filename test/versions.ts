// Beside `npm test`, in what time its tests leave (nice 19): the unit tests, the service across nodes and a
// short round of the ledger once more on each other version of Node that is supported; vitest, its tests and
// the nodes that they start all run on it. npm brings it, as the package that is Node for this system, into a
// folder below node_modules, once; TEST_NODES=/path/node,… names programs instead, and TEST_NODES= none.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const { platform, arch, execPath, versions, env } = process

/** The oldest that will do of each line; package.json says the first in `engines`. */
const supported = ['20.19', '22', '24']
const [ownMajor] = versions.node.split('.')

/** What costs seconds and asks nothing of Node that the rest does not. */
const left = new Set(
  [
    ...['codec', 'delivery', 'fan-out', 'match-cache', 'moments', 'own-routes', 'router', 'routing-table'],
    ...['small-map', 'tries', 'wire'],
  ].map((name) => `${name}.test.ts`),
)
const files = [
  ...readdirSync('test/unit')
    .filter((name) => name.endsWith('.test.ts') && !left.has(name))
    .map((name) => `test/unit/${name}`),
  'test/cluster/service.test.ts',
]

const packageName = `${platform === 'darwin' && arch === 'arm64' ? 'node-bin' : 'node'}-${platform === 'win32' ? 'win' : platform}-${arch}`

/** The program of a version. */
async function install(version: string): Promise<string> {
  const folder = join('node_modules', '.cache', 'aedes-cluster', `node-${version}`)
  const home = join(folder, 'node_modules', packageName)
  const program = join(home, 'bin', platform === 'win32' ? 'node.exe' : 'node')
  if (existsSync(program)) return program
  rmSync(folder, { recursive: true, force: true }) // one that was not finished
  mkdirSync(folder, { recursive: true })
  const npm = env.npm_execpath // of `npm test`
  const [command, ...first] = npm === undefined ? ['npm'] : [execPath, npm]
  await run(command, [
    ...first,
    ...['install', '--prefix', folder, '--no-save', '--no-audit', '--no-fund', '--ignore-scripts'],
    `${packageName}@${version}`,
  ])
  return program
}

/** What is run on a version, and how long it took. @throws with all that was written when a test failed */
async function runOn(program: string): Promise<string> {
  const began = performance.now()
  const on = (...argv: readonly string[]): Promise<{ stdout: string }> =>
    run(program, argv, { env: { ...env, TEST_BRIEF: '1' }, maxBuffer: 2 ** 26 })
  const { stdout: version } = await on('--version')
  await run(program, ['dist/aedes-cluster.js', '--version'], { env: { WRITE_COMPILED: '1' } }) // as the build does for its own
  const { stdout: tests } = await on(
    ...['node_modules/vitest/vitest.mjs', 'run', '--project', 'redis', '--maxWorkers', '1', '--no-color'],
    ...files,
  )
  const { stdout: ledger } = await on('dist/test/fault/ledger/main.js', '--seconds', '4', '--rounds', '1')
  const counted = /Tests\s+(.*)/.exec(tests)?.[1] ?? ''
  const seconds = Math.round((performance.now() - began) / 1_000)
  return `Node ${version.trim()}: ${counted.trim()} in ${seconds} s; ledger ${ledger.split('\n')[0] ?? ''}`
}

function refuseOtherEngines(): void {
  const { engines } = JSON.parse(readFileSync('package.json', 'utf8')) as { engines: { node: string } }
  if (engines.node !== `>=${supported[0]}`)
    throw new Error(`package.json says engines ${engines.node}, test/versions.ts >=${supported[0]}`)
}

refuseOtherEngines()
const programs =
  env.TEST_NODES === undefined
    ? await Promise.all(supported.filter((version) => version.split('.')[0] !== ownMajor).map(install))
    : env.TEST_NODES.split(',').filter((program) => program !== '')
const ended = await Promise.allSettled(programs.map(runOn))
for (const [i, outcome] of ended.entries()) {
  if (outcome.status === 'fulfilled') console.log(outcome.value)
  else {
    const {
      stdout = '',
      stderr = '',
      message,
    } = outcome.reason as Error & { stdout?: string; stderr?: string }
    console.error(`${programs[i]}: ${stdout}\n${stderr}\n${message.split('\n')[0]}`)
    process.exitCode = 1
  }
}
