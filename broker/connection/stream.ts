// The byte stream of a connection, whatever it comes over: its chunks, errors and end are told to the connection,
// by listeners that all connections share. State: none but the streams' own.
import type { Duplex } from 'node:stream'
import { atEnd } from '../../bridge/index.ts'
import type { Connection } from './connection.ts'

/** Of a stream: the connection that it is. */
const connectionOf = Symbol('connection')
type Stream = Duplex & { [connectionOf]?: Connection }

/** A bug of ours is this connection's end, not everybody's. */
function guarded(stream: Stream, work: (connection: Connection) => void): void {
  const connection = stream[connectionOf]!
  try {
    work(connection)
  } catch (error) {
    connection.onBug(error)
  }
}

function onData(this: Stream, chunk: Buffer): void {
  guarded(this, (connection) => connection.feed(chunk))
}

function onEnd(this: Stream): void {
  this[connectionOf]!.hasEnded = true // known at once, also when what it takes waits for its turn
  atEnd(() => guarded(this, (connection) => connection.onSocketEnd()))
}

function onError(this: Stream, error: Error): void {
  this[connectionOf]!.failed(error)
}

function onClose(this: Stream): void {
  atEnd(() => guarded(this, (connection) => connection.onSocketClose()))
}

/** From now on the connection hears of its stream. */
export function attach(stream: Stream, connection: Connection): void {
  stream[connectionOf] = connection
  stream.on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose)
}
