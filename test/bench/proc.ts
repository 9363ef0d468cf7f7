// What the kernel says about processes and this machine: CPU time and memory from /proc, never from a process
// about itself. Linux only. A process that is gone yields undefined, so that a crash does not hide what was
// read before.
import { readFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'

/** USER_HZ, in which /proc counts CPU time: 100 on every Linux that Node supports. */
const ticksPerSecond = 100

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined // the process ended
  }
}

/** User and system time of all threads of the process so far, in microseconds. */
export function cpuMicroseconds(pid: number): number | undefined {
  const stat = read(`/proc/${pid}/stat`)
  if (stat === undefined) return undefined
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // the name before it may hold spaces
  return (Number(fields[11]) + Number(fields[12])) * (1_000_000 / ticksPerSecond)
}

/**
 * What all cores were busy with so far, with what the host of a virtual machine took (steal), in
 * microseconds.
 */
export function machineMicroseconds(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (read('/proc/stat') ?? '')
    .split('\n')[0]!
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + irq + softirq + steal) * (1_000_000 / ticksPerSecond)
}

const statusBytes = (pid: number, field: string): number | undefined => {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(read(`/proc/${pid}/status`) ?? '')
  return line === null ? undefined : Number(line[1]) * 1024
}

/** Pids of its children. */
export const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)

export const rssBytes = (pid: number): number | undefined => statusBytes(pid, 'VmRSS')

/** The most memory the process had resident at any time. */
export const peakRssBytes = (pid: number): number | undefined => statusBytes(pid, 'VmHWM')

const restMs = 10_000
const restMaxMs = 30_000

/**
 * Resident memory of a process that has nothing to do, once its garbage collector has nothing to do either:
 * when it did not fall any more for a while.
 */
export async function restingRssBytes(pid: number): Promise<number> {
  let least = rssBytes(pid) ?? NaN
  const begun = performance.now()
  for (let since = begun; performance.now() - since < restMs && performance.now() - begun < restMaxMs;) {
    await new Promise((resolve) => setTimeout(resolve, 250))
    const now = rssBytes(pid) ?? NaN
    if (now < least * 0.99) since = performance.now()
    least = Math.min(least, now)
  }
  return least
}

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
}

export function machine(): Machine {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: read('/proc/sys/kernel/osrelease')?.trim() ?? 'unknown',
  }
}
