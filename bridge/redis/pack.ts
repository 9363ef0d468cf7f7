// Many arguments of a script as one: MessagePack, which Redis' Lua reads with cmsgpack.unpack. An argument
// costs its way through ioredis, the protocol and Lua's stack, a packed value hardly more than its bytes: a
// session that gets one message is some twenty of them. State: a buffer that grows to the largest call.

export type Packable = string | number | Buffer | readonly Packable[]

const scratchMax = 4 * 1024 * 1024
let scratch = Buffer.allocUnsafe(64 * 1024)
let at = 0

function room(bytes: number): void {
  if (at + bytes <= scratch.length) return
  const larger = Buffer.allocUnsafe(Math.max(2 * scratch.length, at + bytes))
  scratch.copy(larger, 0, 0, at)
  scratch = larger
}

/**
 * A marker and after it the length: `fix` holds lengths below `fixMax` in itself, `wide` and the next one
 * take 16 and 32 bits.
 */
function head(length: number, fix: number, fixMax: number, wide: number): void {
  room(5)
  if (length < fixMax) scratch[at++] = fix | length
  else if (length <= 0xffff) {
    scratch[at] = wide
    at = scratch.writeUInt16BE(length, at + 1)
  } else {
    scratch[at] = wide + 1
    at = scratch.writeUInt32BE(length, at + 1)
  }
}

function put(value: Packable): void {
  if (typeof value === 'number') number(value)
  else if (typeof value === 'string') {
    const length = Buffer.byteLength(value)
    head(length, 0xa0, 32, 0xda)
    room(length)
    at += scratch.write(value, at)
  } else if (Buffer.isBuffer(value)) {
    head(value.length, 0xa0, 32, 0xda)
    room(value.length)
    at += value.copy(scratch, at)
  } else {
    head(value.length, 0x90, 16, 0xdc)
    for (const item of value) put(item)
  }
}

function number(value: number): void {
  room(9)
  if (Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff) {
    if (value < 0x80) scratch[at++] = value
    else if (value <= 0xffff) {
      scratch[at] = 0xcd
      at = scratch.writeUInt16BE(value, at + 1)
    } else {
      scratch[at] = 0xce
      at = scratch.writeUInt32BE(value, at + 1)
    }
  } else {
    scratch[at] = 0xcb
    at = scratch.writeDoubleBE(value, at + 1)
  }
}

/** Texts as UTF-8, numbers as Lua has them (exact up to 2^53), lists as arrays from 1. */
export function pack(value: Packable): Buffer {
  at = 0
  put(value)
  const packed = Buffer.from(scratch.subarray(0, at))
  if (scratch.length > scratchMax) scratch = Buffer.allocUnsafe(64 * 1024)
  return packed
}
