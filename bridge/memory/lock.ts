// One process for a file: a second one that wrote to it would damage both. State: a file beside it, which
// names the process that has it and whose time is set every second; gone when it stops. A process that was
// killed leaves it behind: where it can be looked at, as on one machine, that is seen at once; otherwise
// (another container, another machine) when the time stands still for three seconds.
import { readFile, rename, stat, unlink, utimes, writeFile } from 'node:fs/promises'
import { BridgeError, endNode, type Ending } from '../errors.ts'
import { lookFor, thisProcess } from '../membership/membership.ts'

const renewMs = 1_000
const watchMs = 3_000
/** For another one that takes it over in the same moment. */
const settleMs = 50

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

export class FileLock {
  readonly #path: string
  readonly #text: string
  readonly #timer: NodeJS.Timeout
  readonly #ending: Ending
  #isReleased = false

  private constructor(path: string, text: string, ending: Ending) {
    this.#path = path
    this.#text = text
    this.#ending = ending
    this.#timer = setInterval(() => {
      this.#renew().catch((error: unknown) => endNode(error, ending))
    }, renewMs).unref()
  }

  /** @throws BridgeError ERR_BRIDGE_FILE when another process has the file */
  static async take(file: string, ending: Ending): Promise<FileLock> {
    const path = `${file}.lock`
    const text = JSON.stringify(thisProcess())
    try {
      await writeFile(path, text, { flag: 'wx', mode: 0o600 })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      if (await isHeld(path))
        throw new BridgeError('ERR_BRIDGE_FILE', `${file} is used by another node, which ${path} names`)
      await writeFile(`${path}.${process.pid}`, text, { mode: 0o600 })
      await rename(`${path}.${process.pid}`, path)
      await wait(settleMs)
      if ((await readFile(path, 'utf8')) !== text)
        throw new BridgeError('ERR_BRIDGE_FILE', `${file} was taken by another node at the same time`)
    }
    return new FileLock(path, text, ending)
  }

  async #renew(): Promise<void> {
    const text = await readFile(this.#path, 'utf8').catch((error: NodeJS.ErrnoException) =>
      error.code === 'ENOENT' ? '' : this.#text,
    ) // it is there and cannot be read, as when no descriptor is free: the next look tells whose it is
    if (this.#isReleased) return
    if (text !== this.#text)
      return endNode(
        new Error(`another process took ${this.#path}: two nodes would write to one file`),
        this.#ending,
      )
    // as when no descriptor is free: in a second it is tried again, and others wait for three
    await utimes(this.#path, new Date(), new Date()).catch(() => undefined)
  }

  async release(): Promise<void> {
    this.#isReleased = true
    clearInterval(this.#timer)
    await unlink(this.#path).catch(() => undefined)
  }
}

async function isHeld(path: string): Promise<boolean> {
  const state = lookFor(await readFile(path, 'utf8'))
  if (state !== 'elsewhere') return state === 'alive'
  const { mtimeMs } = await stat(path)
  await wait(watchMs)
  return await stat(path).then(
    (now) => now.mtimeMs !== mtimeMs,
    () => false,
  )
}
