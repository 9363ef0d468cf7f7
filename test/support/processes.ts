// What runs on this machine, from /proc: pids and command lines.
import { readdirSync, readFileSync } from 'node:fs'

export function readPids(): { pid: number; command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        return [
          { pid: Number(name), command: readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ') },
        ]
      } catch {
        return [] // it ended while we looked
      }
    })
}
