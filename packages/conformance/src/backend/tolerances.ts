/** How far an f32 result may be from the f64 oracle, relative to 1 + |expected|, and why. Everything else must be equal. */
export const tolerances = {
  /** A few roundings of 6e-8 each; devices compute exp, sin and the like to a handful of units in the last place. */
  elementwise: 2e-6,
  /** Sums of up to a few hundred products of numbers below 1, in any order. */
  sum: 1e-5,
  /** A chain of sums, exponentials and quotients. */
  composed: 2e-5,
} as const
