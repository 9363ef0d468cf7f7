// What may be configured about a node without Redis. No state.
import { z } from 'zod'
import { whole, type Option } from '../option.ts'

export const memoryOptions = {
  stateFile: {
    at: 'state.file',
    schema: z
      .string()
      .regex(/^(?!.*:\/)[^@\n]+$/, 'is an address or a text, not the name of a file')
      .optional(),
    shape: 'file',
    secret: true,
    needsStore: true,
    hint: 'Name a file in a folder that this node may write to',
    about:
      'file in which a node without Redis keeps sessions, their queues and Retained Messages over a restart; made when it is not there',
  },
  fsync: {
    at: 'state.fsync',
    schema: z.enum(['always', 'everysec', 'never'], 'is not a way to write a file').default('always'),
    shape: 'always|everysec|never',
    hint: 'Use always, everysec or never',
    about:
      'when that file is on disk: before anything is acknowledged, within a second, or when the operating system likes; only a crash of the machine tells them apart',
  },
  storedBytesMax: {
    at: 'state.bytesMax',
    schema: whole(65_536, 2 ** 50).default(1024 * 1024 * 1024),
    needsStore: true,
    shape: 'bytes',
    hint: 'Use a number of bytes, 65536 or more',
    about:
      'without Redis: memory that what waits and what is in flight of all sessions may take, in bytes; beyond it the oldest message goes where most wait, and when all is in flight a new session is refused',
  },
} as const satisfies Record<string, Option>
