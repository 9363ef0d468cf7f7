// What packages and Node itself say on the console of a node's process, as lines of its log: ioredis warns
// there of a password that Redis does not want, at each connection. Only the command does it: in somebody
// else's process the console is theirs.
import type { Config } from '../config/config.ts'
import { Log } from '../observe/log.ts'

export function consoleToLog(config: Config): void {
  const log = new Log(config)
  console.warn = console.error = (...words: readonly unknown[]): void => {
    const text = words.map(String).join(' ')
    // Not being told by INFO is no matter of a node's: bridge/redis/redis-advice.ts.
    const name = text.startsWith('Skipping the ready check') ? 'console-detail' : 'console'
    log.eventPerMinute(name, text, {}, text.replace(/^\[\w+\] /, ''))
  }
}
