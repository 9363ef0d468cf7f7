// `aedes-cluster retained ls | get | rm | export | import`: Retained Messages over the admin API. An export is a file of
// lines, each a message as the API has it, so that an import sends them as they are. No state.
import { createReadStream, createWriteStream } from 'node:fs'
import { once } from 'node:events'
import { usage } from '../config/sources.ts'
import { columns, linesOf, print, printJson, type AdminClient, type Operation } from './admin-client.ts'

interface Retained {
  readonly topic: string
  readonly qos: number
  readonly payload: string
  readonly encoding: 'utf8' | 'base64'
  readonly expiresInSeconds?: number
}

const filterFlag = { filter: { shape: 'filter', about: 'only topics that it matches [#]' } }
/** Requests of an import that are under way. */
const atOnce = 16
const shownMax = 60

async function* allOf(api: AdminClient, filter: string): AsyncGenerator<Retained> {
  let cursor: number | undefined = 0
  while (cursor !== undefined) {
    const page: { messages: readonly Retained[]; next?: number } = await api.get('/retained', {
      filter,
      limit: 1_000,
      cursor,
    })
    yield* page.messages
    cursor = page.next
  }
}

const filterOf = (value: unknown): string => (typeof value === 'string' ? value : '#')
const bytesOf = ({ payload, encoding }: Retained): number => Buffer.byteLength(payload, encoding)
const shown = ({ payload, encoding }: Retained): string =>
  encoding === 'utf8' && payload.length <= shownMax ? payload : ''

async function* linesOfFile(file: string): AsyncGenerator<string> {
  try {
    yield* linesOf(createReadStream(file))
  } catch (error) {
    await fileError(file, error)
  }
}

async function fileError(file: string, error: unknown): Promise<never> {
  const { code = 'error' } = error as NodeJS.ErrnoException
  throw usage('retained', file, `cannot be used (${code})`, 'Name a file that may be read or written', error)
}

export const retainedOperations: Readonly<Record<string, Operation>> = {
  'retained ls': {
    words: [],
    flags: filterFlag,
    about: 'Retained Messages: topic, QoS, size',
    run: async (api, _words, { filter }) => {
      for await (const message of allOf(api, filterOf(filter)))
        print(
          api.isJson
            ? `${JSON.stringify(message)}\n`
            : columns([[message.topic, `QoS ${message.qos}`, `${bytesOf(message)} bytes`, shown(message)]]),
        )
    },
  },
  'retained get': {
    words: ['TOPIC'],
    flags: {},
    about: 'the payload of one, as it is',
    run: async (api, [topic]) => {
      for await (const message of allOf(api, topic!)) {
        if (api.isJson) return printJson(message)
        return void process.stdout.write(Buffer.from(message.payload, message.encoding))
      }
      throw usage('retained get', topic, 'has no Retained Message', 'List them: aedes-cluster retained ls')
    },
  },
  'retained rm': {
    words: ['TOPIC'],
    flags: {},
    about: 'clears one',
    run: async (api, [topic]) => {
      const done = await api.delete('/retained', { topic: topic! })
      if (api.isJson) return printJson(done)
      print('cleared\n')
    },
  },
  'retained export': {
    words: ['FILE'],
    flags: filterFlag,
    about: 'writes them into a file, one in a line',
    run: async (api, [file], { filter }) => {
      let count = 0
      const out = createWriteStream(file!, { flags: 'wx', mode: 0o600 })
      await once(out, 'open').catch((error: unknown) => fileError(file!, error))
      for await (const message of allOf(api, filterOf(filter))) {
        count++
        if (!out.write(`${JSON.stringify(message)}\n`)) await once(out, 'drain')
      }
      out.end()
      await once(out, 'finish')
      if (api.isJson) return printJson({ messages: count })
      print(`${count} messages are in ${file}\n`)
    },
  },
  'retained import': {
    words: ['FILE'],
    flags: {},
    about: 'retains what such a file has; subscribers get it',
    run: async (api, [file]) => {
      let count = 0
      const underWay = new Set<Promise<unknown>>()
      for await (const line of linesOfFile(file!)) {
        if (line.trim() === '') continue
        const message = messageOf(line, ++count)
        const sent: Promise<unknown> = api.send('PUT', '/retained', message).then(() => underWay.delete(sent))
        sent.catch(() => undefined) // it stays among them, and whoever waits next hears of it
        underWay.add(sent)
        if (underWay.size >= atOnce) await Promise.race(underWay)
      }
      await Promise.all(underWay)
      if (api.isJson) return printJson({ messages: count })
      print(`${count} messages are retained\n`)
    },
  },
}

function messageOf(line: string, number: number): object {
  try {
    return JSON.parse(line) as object
  } catch (error) {
    throw usage(
      'retained import',
      undefined,
      `line ${number} is no JSON`,
      'Name a file that export wrote',
      error,
    )
  }
}
