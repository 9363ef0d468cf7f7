// What a session is owed of replays, as it stands in the fields of its hash: whoever reads them knows what is
// left, whatever else is there.
import { noReports } from '../../bridge/diagnostics.ts'
import { expect, test } from 'vitest'
import { partitionsOfCluster as partitions } from '../../bridge/redis/keys.ts'
import { OwedReplays, type Field } from '../../bridge/sessions/owed-replays.ts'
import { messageOf } from '../bridge/planes.ts'

const stamps = Float64Array.from({ length: partitions }, (_, partition) => 1.7e15 + partition)
const value = (topic: string, stamp: number): ReturnType<typeof messageOf> => messageOf(topic, '', { stamp })

/** The hash after some writes, and a few that are not ours. */
function stored(...writes: (readonly Field[])[]): Buffer[] {
  const hash = new Map<string, Buffer | string>([
    ['replay x', 'y'],
    ['replay 99', 'short'],
    ['replay 98 0', Buffer.alloc(9)],
  ])
  for (const [name, bytes] of writes.flat())
    if (bytes === '') hash.delete(name)
    else hash.set(name, bytes)
  return [...hash]
    .filter(([name]) => name.startsWith('replay '))
    .flat()
    .map((bytes) => Buffer.from(bytes))
}

test('the next owner knows filter, moment and what was handed over; and numbers its own ones on', () => {
  const replays = new OwedReplays()
  const [first, second] = [replays.begin('ü/#', true, stamps), replays.begin('b', false, stamps)]
  const fields = [
    replays.begun(first),
    replays.begun(second),
    [first.page([value('ü/1', 1.7e15), value('ü/2', 1.7e15)])],
    [first.page([value('ü/3', 5)])],
  ]
  const read = OwedReplays.of(stored(...fields), noReports)
  expect(read.all.map(({ filter, isFirst, stamps: { length } }) => [filter, isFirst, length])).toEqual([
    ['ü/#', true, partitions],
    ['b', false, partitions],
  ])
  const again = read.firstOf('ü/#')!
  expect([...again.stamps]).toEqual([...stamps])
  expect(
    [value('ü/1', 1.7e15), value('ü/2', 1.7e15), value('ü/3', 5), value('ü/3', 6), value('ü/4', 1.7e15)].map(
      (message) => again.isDone(message),
    ),
  ).toEqual([true, true, true, false, false])
  expect([read.firstOf('b'), read.begin('c', true, stamps).number]).toEqual([undefined, 2])
  // A page of the next owner takes no earlier one's place.
  expect(again.page([value('ü/4', 1)])[0]).toBe('replay 0 2')
})

test('nothing is left of one that is over, nor the mark when it was the last', () => {
  const replays = new OwedReplays()
  const [first, second] = [replays.begin('a', true, stamps), replays.begin('b', true, stamps)]
  const begun = [replays.begun(first), replays.begun(second), [first.page([value('a', 1)])]]
  expect(
    stored(...begun, replays.end(first))
      .map(String)
      .filter((name) => /^replay \d$|^replay 0/.test(name)),
  ).toEqual(['replay 1'])
  expect([replays.end(second), replays.end(second), replays.heads]).toEqual([
    [
      ['replay 1', ''],
      ['replays', ''],
    ],
    [],
    [],
  ])
})
