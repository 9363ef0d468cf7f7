// The file that keeps the state of a node without Redis: records in the order in which they happened, many to
// a frame, each frame with its length and a checksum, which tells its place as well. What was being written
// when the process died is cut off when it starts again: nothing of it was acknowledged. When the machine
// dies that holds as long as `fsync` is `always`. What is damaged and has a whole frame after it is no such
// end: then the file is refused. When it has grown to twice what it was, it is written anew beside itself,
// some sessions at a time, while all that happens meanwhile goes into both; then it takes the place of the
// old one. That works since a record about a session that is not there changes nothing, and one that holds a
// whole session makes good all that came before it. Where that fails (no room, no descriptor) it is given up
// and tried again later: the old file is whole. State: the file, and what is on its way into it. Bound:
// publishers wait until their records are written.
import { open, rename, unlink, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { deserialize, serialize } from 'node:v8'
import { crc32 } from 'node:zlib'
import { noReports } from '../diagnostics.ts'
import { BridgeError, endNode } from '../errors.ts'
import { Slice } from '../pace/turns.ts'
import type { Waits } from '../pace/waits.ts'
import { FileLock } from './lock.ts'
import { Queue } from './queue.ts'
import { State, type StateRecord } from './state.ts'
import type { StoredState } from './stored-state.ts'

/**
 * `always`: what is acknowledged is on disk. `everysec`: it is with the operating system, and on disk within
 * a second. `never`: when the operating system likes.
 */
export type Fsync = 'always' | 'everysec' | 'never'

export interface RecordLog {
  readonly standstill: BridgeError | undefined
  append(record: StateRecord): void
  settled(): Promise<void>
  close(): Promise<void>
}

const magic = Buffer.from('aedes-cluster state 1\n')
/** Marker, length and checksum of what follows. */
const frameHead = 12
const readBytes = 4 * 1024 * 1024
const frameBytesMax = 1024 * 1024 * 1024
/** Smaller files are not worth writing anew. */
const compactBytesMin = 16 * 1024 * 1024
const fsyncMs = 1_000
const retryMs = 1_000
const probeMs = 1_000
/** A write that takes so long holds CONNECTs back. */
const slowMs = 2_000
/** No room on the disk, for this user, or by the limits of the process. */
const fullCodes = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])
/** After a file could not be written anew. */
const compactRetryMs = 60_000
/** Of a file that is written anew: bytes of one frame, roughly. */
const compactFrameBytes = 256 * 1024

/** What is read: a queue is a list there, and what is kept keeps no frame in memory. */
type Whole = Omit<StoredState, 'queue'> & { readonly queue: readonly Buffer[] }
type Written = Exclude<StateRecord, { type: 'session' }> | { readonly type: 'session'; readonly whole: Whole }

const written = (record: StateRecord): Written =>
  record.type === 'session'
    ? { type: 'session', whole: { ...record.whole, queue: [...record.whole.queue.oldest()] } }
    : record

const copy = (bytes: Uint8Array): Buffer => Buffer.from(bytes)

/** What many sessions shared when it was written is shared again. State: as long as a file is being read. */
class Bodies {
  readonly #known = new Map<string, Buffer>()

  of(bytes: Uint8Array): Buffer {
    const key = `${bytes.length} ${crc32(bytes)}`
    const known = this.#known.get(key)
    if (known?.equals(bytes) === true) return known
    const body = copy(bytes)
    this.#known.set(key, body)
    return body
  }
}

function readRecord(record: Written, bodies: Bodies): StateRecord {
  switch (record.type) {
    case 'claimed':
      return {
        ...record,
        will: record.will === undefined ? undefined : { ...record.will, body: copy(record.will.body) },
      }
    case 'will':
      return {
        ...record,
        will: record.will === undefined ? undefined : { ...record.will, body: copy(record.will.body) },
      }
    case 'queued':
      return { ...record, body: copy(record.body) }
    case 'retained':
      return { ...record, body: record.body === undefined ? undefined : copy(record.body) }
    case 'served':
      return {
        ...record,
        given: record.given.map(([id, body]) => [id, copy(body)]),
        fields: record.fields.map(([name, value]) => [name, typeof value === 'string' ? value : copy(value)]),
      }
    case 'session': {
      const { whole } = record
      return {
        type: 'session',
        whole: {
          ...whole,
          will: whole.will === undefined ? undefined : { ...whole.will, body: copy(whole.will.body) },
          queue: Queue.of(whole.queue.map((body) => bodies.of(body))),
          inFlight: new Map(
            [...whole.inFlight].map(([id, { order, body }]) => [
              id,
              { order, body: body === undefined ? undefined : bodies.of(body) },
            ]),
          ),
          fields: new Map(
            [...whole.fields].map(([name, value]) => [name, typeof value === 'string' ? value : copy(value)]),
          ),
        },
      }
    }
    default:
      return record
  }
}

const bodyOf = (records: readonly StateRecord[]): Buffer => serialize(records.map(written))
/** What every frame begins with: v8 begins the same list in more than one way. */
const marker = Buffer.from([0xae, 0xde, 0x5f, 0x01])

/** Of a frame at a place: bytes of a client that look like a frame are none where they stand. */
const checksum = (body: Buffer, at: number): number => crc32(body, at >>> 0)

function frameOf(body: Buffer, at: number): Buffer {
  const head = Buffer.allocUnsafe(frameHead)
  marker.copy(head)
  head.writeUInt32BE(body.length, 4)
  head.writeUInt32BE(checksum(body, at), 8)
  return Buffer.concat([head, body])
}

interface Compaction {
  readonly file: FileHandle
  size: number
  /** Why it is given up. */
  problem: unknown
}

async function writeAll(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten
}

/** Of what a file is written anew from, roughly. */
function bytesOf(record: StateRecord): number {
  if (record.type === 'retained') return record.body?.length ?? 0
  if (record.type === 'will') return record.will?.body.length ?? 0
  if (record.type !== 'session') return 0
  const { queue, inFlight, subscriptions } = record.whole
  return queue.bytes + 256 * inFlight.size + 64 * subscriptions.size
}

/** What a file held, and how much of it was whole. */
export interface Opened {
  readonly log: FileLog
  readonly state: State
  /** Bytes at its end that were cut off: what was being written when the process died. */
  readonly cut: number
}

export class FileLog implements RecordLog {
  readonly #path: string
  readonly #fsync: Fsync
  readonly #state: State
  readonly #waits: Waits | undefined
  readonly #onWarning: (text: string) => void
  readonly #lock: FileLock
  #file: FileHandle
  #size: number
  /** Its size when it was last written anew. */
  #base: number
  /** What is to be written, and what is to be done in between, in order. */
  #pending: (StateRecord | (() => Promise<void>))[] = []
  #writing: Promise<void> | undefined
  #next: Promise<void> | undefined
  readonly #timer: NodeJS.Timeout | undefined
  #isSynced = true
  /** The file that takes its place, while it is being written. */
  #compaction: Compaction | undefined
  #compacting: Promise<void> | undefined
  #compactFrom = 0
  #closed = false
  /** It is being closed: a disk that is full is not waited for any longer. */
  readonly #ending = new AbortController()
  /** What was to be written is not, for want of room, and nothing comes after it. */
  #giveUpWriting!: () => void
  readonly #givenUp = new Promise<void>((resolve) => {
    this.#giveUpWriting = resolve
  })
  /** Why it cannot be written now. */
  problem: BridgeError | undefined
  /** Since when a write has been under way. */
  #since: number | undefined

  private constructor(
    path: string,
    fsync: Fsync,
    state: State,
    file: FileHandle,
    lock: FileLock,
    size: number,
    onWarning: (text: string) => void,
    waits: Waits | undefined,
  ) {
    this.#path = path
    this.#fsync = fsync
    this.#state = state
    this.#file = file
    this.#lock = lock
    this.#size = this.#base = size
    this.#waits = waits
    this.#onWarning = onWarning
    if (fsync === 'everysec') this.#timer = setInterval(() => void this.#syncNow(), fsyncMs).unref()
  }

  /**
   * Reads a file, or makes one.
   * @throws BridgeError ERR_BRIDGE_FILE when it cannot be used: not ours, damaged in the middle, or the
   * operating system refuses
   */
  static async open(
    path: string,
    fsync: Fsync,
    onWarning: (text: string) => void,
    waits?: Waits,
  ): Promise<Opened> {
    const state = new State()
    let [file, lock]: [FileHandle | undefined, FileLock | undefined] = [undefined, undefined]
    try {
      lock = await FileLock.take(path, waits?.reports ?? noReports)
      file = await open(path, 'r+').catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
        const made = await open(path, 'wx+', 0o600)
        await made.write(magic, 0, magic.length, 0)
        await made.datasync()
        await syncFolder(path)
        return made
      })
      const [end, size] = [await readAll(path, file, state), (await file.stat()).size]
      if (end < size) await file.truncate(end)
      return {
        log: new FileLog(path, fsync, state, file, lock, end, onWarning, waits),
        state,
        cut: size - end,
      }
    } catch (error) {
      await file?.close()
      await lock?.release()
      throw error instanceof BridgeError
        ? error
        : new BridgeError('ERR_BRIDGE_FILE', `${path}: ${(error as Error).message}`, { cause: error })
    }
  }

  append(record: StateRecord): void {
    this.#pending.push(record)
    void this.settled()
  }

  /**
   * Resolves when all that was appended so far is written. One write at a time: what comes meanwhile goes
   * with the next one.
   */
  settled(): Promise<void> {
    if (this.#next !== undefined) return this.#next
    if (this.#writing === undefined && this.#pending.length === 0) return Promise.resolve()
    return (this.#next = (this.#writing ?? Promise.resolve()).then(() => {
      this.#next = undefined
      return (this.#writing = this.#write().finally(() => {
        this.#writing = undefined
      }))
    }))
  }

  /** How long the last probe took, ms. */
  lastProbeMs = 0

  /** @throws BridgeError why what was appended is not written, after a while */
  async probe(): Promise<void> {
    const began = performance.now()
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(this.problem ?? new BridgeError('ERR_BRIDGE_DISK_SLOW', 'there is no answer yet')),
        this.problem === undefined ? probeMs : 0,
      )
    })
    await Promise.race([this.settled(), late]).finally(() => {
      clearTimeout(timer)
      this.lastProbeMs = performance.now() - began
    })
  }

  /** Why it has not been written for a while; undefined: it has. */
  get standstill(): BridgeError | undefined {
    if (this.problem !== undefined || this.#since === undefined || performance.now() - this.#since < slowMs)
      return this.problem
    return new BridgeError('ERR_BRIDGE_DISK_SLOW', 'there is no answer yet')
  }

  async #write(): Promise<void> {
    const pending = this.#pending
    this.#pending = []
    let records: StateRecord[] = []
    for (const one of pending) {
      if (typeof one !== 'function') records.push(one)
      else {
        await this.#frame(records)
        records = []
        await one()
      }
    }
    await this.#frame(records)
    if (
      !this.#closed &&
      this.#compacting === undefined &&
      this.#size > Math.max(compactBytesMin, 2 * this.#base)
    ) {
      if (performance.now() >= this.#compactFrom)
        this.#compacting = this.#compact()
          .catch((error: unknown) => this.#end(error))
          .finally(() => {
            this.#compacting = undefined
          })
    }
  }

  /** As one frame, or as several: what is larger than is read again would pass for a torn end. */
  async #frame(records: readonly StateRecord[]): Promise<void> {
    if (records.length === 0) return
    if (
      records.length > 1 &&
      records.reduce((bytes, record) => bytes + bytesOf(record), 0) > frameBytesMax / 4
    ) {
      const half = records.length >> 1
      await this.#frame(records.slice(0, half))
      return this.#frame(records.slice(half))
    }
    const body = bodyOf(records)
    const frame = frameOf(body, this.#size)
    await this.#put(this.#file, frame, this.#size)
    this.#size += frame.length
    this.#isSynced = this.#fsync === 'always'
    const anew = this.#compaction
    if (anew !== undefined)
      await this.#writeCompaction(anew, body).catch((error: unknown) => this.#giveUp(anew, error))
  }

  /** On disk when it takes the place of the old one. */
  async #writeCompaction(anew: Compaction, body: Buffer): Promise<void> {
    const frame = frameOf(body, anew.size)
    await writeAll(anew.file, frame, anew.size)
    anew.size += frame.length
  }

  /** The old file goes on, with the room that the new one had. */
  async #giveUp(anew: Compaction, error: unknown): Promise<void> {
    anew.problem = error
    this.#compaction = undefined
    await anew.file.truncate(0).catch(() => undefined)
  }

  /**
   * Until it is written: a disk that is full is waited for. What fails otherwise leaves nobody knowing what
   * is on disk.
   */
  async #put(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
    const wait = this.#waits?.begin('write', (this.#since = performance.now()))
    try {
      for (;;) {
        try {
          await writeAll(file, bytes, at)
          if (this.#fsync === 'always') await file.datasync()
          this.problem = undefined
          return
        } catch (error) {
          const { code, message } = error as NodeJS.ErrnoException
          if (code === undefined || !fullCodes.has(code) || this.#closed) throw error
          if (this.#compaction !== undefined) {
            await this.#giveUp(this.#compaction, error)
            continue
          }
          wait?.because((this.problem = new BridgeError('ERR_BRIDGE_DISK_FULL', message)))
          const { signal } = this.#ending
          if (signal.aborted) {
            this.#giveUpWriting()
            return await new Promise<never>(() => undefined) // nobody was told that it is stored
          }
          await sleep(retryMs, undefined, { signal }).catch(() => undefined)
        }
      }
    } catch (error) {
      this.#end(error)
      return await new Promise<never>(() => undefined) // nothing that waits for it may go on
    } finally {
      wait?.end()
      this.#since = undefined
    }
  }

  /** Nobody knows then what is stored. */
  #end(error: unknown): void {
    endNode(error, this.#waits?.reports)
  }

  async #syncNow(): Promise<void> {
    if (this.#isSynced) return
    this.#isSynced = true
    await this.#file.datasync().catch((error: unknown) => this.#end(error))
  }

  /** Writes the file anew, unless something is in the way of that: then it is tried again later. */
  async #compact(): Promise<void> {
    const path = `${this.#path}.anew`
    let anew: Compaction | undefined
    try {
      anew = { file: await open(path, 'w', 0o600), size: magic.length, problem: undefined }
      await writeAll(anew.file, magic, 0)
      await this.#compactTo(path, anew)
    } catch (error) {
      await anew?.file.close().catch(() => undefined)
      await unlink(path).catch(() => undefined)
      this.#compactFrom = performance.now() + compactRetryMs
      if (!this.#closed)
        this.#onWarning(
          `${this.#path} could not be written anew, and grows; this is tried again: ${(error as Error).message}`,
        )
    }
  }

  /**
   * Each step in its place among the records, after what happened before it and ahead of what came later.
   */
  async #compactTo(path: string, anew: Compaction): Promise<void> {
    const step = async (run: () => Promise<void>): Promise<void> => {
      this.#pending.push(async () => {
        if (anew.problem === undefined) await run().catch((error: unknown) => this.#giveUp(anew, error))
      })
      await this.settled()
      if (anew.problem !== undefined) throw anew.problem as Error
      if (this.#closed && this.#compaction === anew) throw new BridgeError('ERR_BRIDGE_CLOSED', path)
    }
    await step(async () => {
      this.#compaction = anew
    })
    const slice = new Slice()
    let [records, bytes]: [StateRecord[], number] = [
      [{ type: 'retained', topic: '', stamp: this.#state.stamp, body: undefined }],
      0,
    ]
    for (const record of this.#whole()) {
      records.push(record)
      bytes += bytesOf(record)
      if (bytes <= compactFrameBytes && !slice.isOver) continue
      const body = bodyOf(records) // as they are now
      records = []
      bytes = 0
      await step(() => this.#writeCompaction(anew, body))
      await slice.next()
    }
    const last = bodyOf(records)
    await step(() => this.#writeCompaction(anew, last))
    await step(() => this.#replace(path, anew))
  }

  *#whole(): Generator<StateRecord> {
    for (const topic of [...this.#state.retained.keys()]) {
      const value = this.#state.retained.get(topic)
      if (value !== undefined) yield { type: 'retained', topic, ...value }
    }
    for (const id of [...this.#state.wills.keys()]) {
      const will = this.#state.wills.get(id)
      if (will !== undefined) yield { type: 'will', id, will }
    }
    for (const sid of [...this.#state.sessions.keys()]) {
      const whole = this.#state.sessions.get(sid)
      if (whole !== undefined) yield { type: 'session', whole }
    }
  }

  async #replace(path: string, { file, size }: Compaction): Promise<void> {
    await file.datasync()
    const folder = await open(dirname(path), 'r') // ahead of the renaming: after it nothing may fail
    await rename(path, this.#path).catch(async (error: unknown) => {
      await folder.close()
      throw error
    })
    const old = this.#file
    this.#compaction = undefined
    this.#file = file
    this.#size = this.#base = size
    await sync(folder)
    await old.close()
  }

  /** A file that is being written anew is given up: the next start finds the old one. */
  async close(): Promise<void> {
    this.#ending.abort()
    const written = this.settled().then(() => true)
    const isWritten = await Promise.race([written, this.#givenUp.then(() => false)])
    this.#closed = true
    clearInterval(this.#timer)
    if (isWritten) await this.#compacting
    await this.#file.datasync().catch(() => undefined)
    await this.#file.close()
    await this.#lock.release()
  }
}

async function syncFolder(path: string): Promise<void> {
  await sync(await open(dirname(path), 'r'))
}

async function sync(folder: FileHandle): Promise<void> {
  await folder.sync().catch(() => undefined) // some file systems have no such thing
  await folder.close()
}

/** Applies what the file holds. @returns where its last whole frame ends */
async function readAll(path: string, file: FileHandle, state: State): Promise<number> {
  const { size } = await file.stat()
  await unlink(`${path}.anew`).catch(() => undefined) // of a process that died meanwhile
  const head = Buffer.alloc(magic.length)
  const { bytesRead } = await file.read(head, 0, magic.length, 0)
  if (bytesRead < magic.length && magic.subarray(0, bytesRead).equals(head.subarray(0, bytesRead))) {
    // it died while it was being made
    await file.write(magic, 0, magic.length, 0)
    return magic.length
  }
  if (!head.equals(magic))
    throw new BridgeError('ERR_BRIDGE_FILE', `${path} is not a file of aedes-cluster, or of another version`)
  let at = magic.length
  const bodies = new Bodies()
  for (;;) {
    const frame = await readFrame(file, at, size)
    if (frame === undefined) break
    for (const record of deserialize(frame) as Written[]) state.apply(readRecord(record, bodies))
    at += frameHead + frame.length
  }
  if (await isWholeBehind(file, at, size))
    throw new BridgeError('ERR_BRIDGE_FILE', `${path} is damaged at byte ${at}, and goes on after that`)
  return at
}

/** The body of the frame at a place; undefined when none is whole there. */
async function readFrame(file: FileHandle, at: number, size: number): Promise<Buffer | undefined> {
  const head = Buffer.alloc(frameHead)
  if (at + frameHead > size) return undefined
  await file.read(head, 0, frameHead, at)
  const length = head.readUInt32BE(4)
  if (
    !head.subarray(0, marker.length).equals(marker) ||
    length === 0 ||
    length > frameBytesMax ||
    at + frameHead + length > size
  )
    return undefined
  const body = Buffer.allocUnsafe(length)
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(
      body,
      done,
      Math.min(readBytes, length - done),
      at + frameHead + done,
    )
    if (bytesRead === 0) return undefined
    done += bytesRead
  }
  return checksum(body, at) === head.readUInt32BE(8) ? body : undefined
}

/**
 * Whether a whole frame stands after one that is damaged, wherever that ends: then it is no torn end, and
 * nobody may cut it off.
 */
async function isWholeBehind(file: FileHandle, at: number, size: number): Promise<boolean> {
  const bytes = Buffer.allocUnsafe(readBytes)
  for (let from = at + 1; from + frameHead <= size;) {
    const { bytesRead } = await file.read(bytes, 0, readBytes, from)
    if (bytesRead < marker.length) return false
    const read = bytes.subarray(0, bytesRead)
    for (let found = read.indexOf(marker); found >= 0; found = read.indexOf(marker, found + 1)) {
      if ((await readFrame(file, from + found, size)) !== undefined) return true
    }
    from += bytesRead - marker.length + 1
  }
  return false
}
