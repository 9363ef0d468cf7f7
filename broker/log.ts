// The log: JSON lines on standard error, so that standard output stays free for what a command answers.
import { pino, type Logger } from 'pino'
import type { Config } from './config.ts'

export type Log = Logger

export function createLog(config: Pick<Config, 'id' | 'logLevel'>): Log {
  return pino({ level: config.logLevel, base: { node: config.id } }, pino.destination({ dest: 2, sync: true }))
}
