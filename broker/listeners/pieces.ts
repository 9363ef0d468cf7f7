// Frames of WebSocket as they come. `ws` keeps a message until it is whole, and whoever announces a large one
// would have us keep what nobody counts, before CONNECT as well. MQTT needs no messages [MQTT-6.0.0-2]: what
// there is of one is handed on at once, so that every byte is where the bounds of a connection are, the
// reader. This reaches into the receiver of `ws`: it takes the place of what reads a payload.
// test/cluster/door.test.ts says what is assumed of it. State: none besides the receiver's.
import type { WebSocket } from 'ws'

/** What of the receiver of `ws` is used here. */
interface Receiver {
  /** 1: text, 2: binary; a continuation has that of its message. */
  readonly _opcode: number
  /** The frame is the last one of its message. */
  readonly _fin: boolean
  /** The opcode of the message whose next frame is awaited; 0: none. */
  _fragmented: number
  /** What is to come of the frame. */
  _payloadLength: number
  /** What has come and is not consumed. */
  readonly _bufferedBytes: number
  _mask: Buffer | undefined
  /** False: it waits for more bytes. */
  _loop: boolean
  _state: number
  consume(bytes: number): Buffer
  getData(callback: (error?: Error) => void): void
  emit(event: 'message', data: Buffer, isBinary: boolean): void
}

const opcodes = { text: 1, binary: 2 }
/** The receiver's state before a frame. */
const beforeFrame = 0

/**
 * From now on `message` brings what there is of a message, in pieces; of a text message that it came, and
 * nothing of it.
 */
export function readInPieces(webSocket: WebSocket): void {
  const receiver = (webSocket as unknown as { readonly _receiver: Receiver })._receiver
  const getControl = receiver.getData.bind(receiver)
  receiver.getData = (callback) => {
    if (receiver._opcode > opcodes.binary) return getControl(callback) // at most 125 bytes
    if (receiver._opcode === opcodes.text) {
      receiver._loop = false
      return receiver.emit('message', Buffer.alloc(0), false)
    }
    const bytes = Math.min(receiver._payloadLength, receiver._bufferedBytes)
    if (bytes > 0) receiver.emit('message', unmasked(receiver, receiver.consume(bytes)), true)
    receiver._payloadLength -= bytes
    if (receiver._payloadLength > 0) {
      if (bytes > 0) receiver._mask = turned(receiver._mask!, bytes & 3)
      receiver._loop = false
      return
    }
    receiver._mask = undefined
    if (receiver._fin) receiver._fragmented = 0
    receiver._state = beforeFrame
  }
}

/** In place. */
function unmasked({ _mask: mask }: Receiver, piece: Buffer): Buffer {
  if (mask!.readInt32LE(0) !== 0) for (let i = 0; i < piece.length; i++) piece[i]! ^= mask![i & 3]!
  return piece
}

/**
 * The mask goes on where the piece ends. A copy: it would keep all that came with it, for as long as the
 * frame is not over.
 */
function turned(mask: Buffer, by: number): Buffer {
  const copy = Buffer.alloc(4)
  for (let i = 0; i < 4; i++) copy[i] = mask[(i + by) & 3]!
  return copy
}
