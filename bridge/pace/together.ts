// Much of the same at once, but not all of it: what is asked of Redis together goes in few writes, and what
// waits for answers is bounded; in number, and for who has more to do, in time.

/** How many are under way when nobody says. */
const atOnce = 200

/**
 * Does `work` for every item, at most `max` at a time. Rejects with the first failure, and begins nothing
 * more then.
 */
export async function together<Item>(
  items: Iterable<Item>,
  work: (item: Item) => Promise<unknown>,
  max = atOnce,
): Promise<void> {
  const left = items[Symbol.iterator]()
  let failed = false
  const one = async (): Promise<void> => {
    for (let next = left.next(); next.done !== true && !failed; next = left.next()) {
      try {
        await work(next.value)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: max }, one))
}

/** Waits for `done`, but no longer than `ms`: false when it is not done by then. */
export async function atMost(ms: number, done: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => {
      resolve(false)
    }, ms).unref()
  })
  return await Promise.race([done.then(() => true), late]).finally(() => {
    clearTimeout(timer)
  })
}
