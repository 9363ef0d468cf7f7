// Users and rules that stand in the store, for all nodes alike: a name and what is kept of its password, and one text of
// rules. What they mean is the nodes' business. No state.

/** Users that there may be. */
export const storedUsersMax = 1_000_000
/** Some two thousand rules. To read them takes a node a turn of its own, some 100 ms. */
export const storedRulesBytesMax = 128 * 1024

/** What may be done about them. */
export interface AccessChanges {
  /** Their names. */
  users(): Promise<string[]>
  /** @returns false: there are as many as there may be */
  setUser(name: string, kept: string): Promise<boolean>
  /** @returns whether there was one */
  removeUser(name: string): Promise<boolean>
  /** Undefined: there are none. */
  rules(): Promise<string | undefined>
  /** Undefined: there are none from now on. */
  setRules(text: string | undefined): Promise<void>
}

/** What a node asks. @throws BridgeError when the store does not answer */
export interface StoredAccess {
  /** What is kept of the passwords of users, as they stand there now; undefined: there is none of that name. */
  keptOf(names: readonly string[]): Promise<(string | undefined)[]>
  rules(): Promise<string | undefined>
  /**
   * Called within a second of every change, and once at first; also when the store lost it all. Resolves when it was
   * called, or the store did not answer: then later.
   */
  hear(changed: () => Promise<void>): Promise<void>
}
