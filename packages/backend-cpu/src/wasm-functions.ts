/**
 * Functions of four f32 at once as WebAssembly: polynomials of S. Moshier's Cephes library (single precision), right to two units in the last
 * place, also for subnormal results, infinities and NaN. `x` is the code of a vector and is evaluated once.
 */
import { once, type Scope } from "./wasm-module.ts"
import { type Code, f32x4, i32, i32x4, v128 } from "./wasm-op.ts"

type Locals = Pick<Scope, "local" | "multiplyAdd">

const { add, sub, mul, splatOf } = f32x4

/** ln 2 as a number of few bits, whose product with a whole number is exact, and the rest. */
const [ln2High, ln2Low] = [0.693359375, -2.1219444e-4]

/** Horner's scheme, highest coefficient first. */
function polynomial({ multiplyAdd }: Locals, x: Code, coefficients: readonly number[]): Code {
  const [first, ...rest] = coefficients as [number, ...number[]]
  return rest.reduce<Code>((sum, c) => multiplyAdd(sum, x, splatOf(c)), splatOf(first))
}

/** Added to a number below 2^22 it leaves the nearest whole number in the low bits. */
const rounding = 1.5 * 2 ** 23
const roundingBits = 0x4b400000

/** e^x = 2^n · e^r with |r| ≤ ln 2 / 2; 2^n as two factors, because n is -150…128. */
export function exp(scope: Locals, x: Code): Code {
  const local = (value: Code, use: (read: Code) => Code): Code => once(scope, "v128", value, use)
  const { multiplyAdd } = scope
  // Beyond these the result is 0 or infinite. Of NaN and a number pmax and pmin give the first.
  return local(f32x4.pmin(f32x4.pmax(x, splatOf(-104)), splatOf(89)), (b) =>
    local(multiplyAdd(b, splatOf(Math.LOG2E), splatOf(rounding)), (rounded) =>
      local(sub(rounded, splatOf(rounding)), (n) =>
        local(multiplyAdd(n, splatOf(-ln2Low), multiplyAdd(n, splatOf(-ln2High), b)), (r) => {
          const coefficients = [1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5]
          const value = add(multiplyAdd(polynomial(scope, r, coefficients), mul(r, r), r), splatOf(1))
          // n and twice the bias of exponents.
          return local(i32x4.sub(rounded, i32x4.splatOf(roundingBits - 254)), (both) =>
            local(i32x4.shrU(both, i32.const(1)), (half) =>
              mul(mul(value, exponent(half)), exponent(i32x4.sub(both, half))),
            ),
          )
        }),
      ),
    ),
  )
}

/** The f32 with these biased exponents. */
function exponent(biased: Code): Code {
  return i32x4.shl(biased, i32.const(23))
}

/** log x = n · ln 2 + log(1 + f) with 1 + f between √½ and √2. */
export function log(scope: Locals, x: Code): Code {
  const local = (value: Code, use: (read: Code) => Code): Code => once(scope, "v128", value, use)
  return local(x, (given) =>
    local(f32x4.lt(given, splatOf(2 ** -126)), (tiny) =>
      local(v128.bitselect(mul(given, splatOf(2 ** 23)), given, tiny), (normal) =>
        local(v128.or(v128.and(normal, i32x4.splatOf(0x007fffff)), i32x4.splatOf(0x3f000000)), (m) =>
          local(f32x4.lt(m, splatOf(Math.SQRT1_2)), (small) => {
            const exponent = i32x4.sub(i32x4.shrU(normal, i32.const(23)), i32x4.splatOf(126))
            // A mask's lanes are -1 where it holds.
            const shifted = i32x4.add(i32x4.sub(exponent, v128.and(tiny, i32x4.splatOf(23))), small)
            return local(f32x4.convertS(shifted), (n) =>
              local(sub(add(m, v128.and(m, small)), splatOf(1)), (f) =>
                local(mul(f, f), (z) => {
                  const terms = polynomial(
                    scope,
                    f,
                    [
                      7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1,
                      -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
                    ],
                  )
                  const rest = sub(add(mul(mul(terms, f), z), mul(n, splatOf(ln2Low))), mul(z, splatOf(0.5)))
                  return local(add(add(f, rest), mul(n, splatOf(ln2High))), (value) => special(given, value))
                }),
              ),
            )
          }),
        ),
      ),
    ),
  )
}

/** The logarithm's value for what is no positive number: -Infinity of 0, NaN below, infinity and NaN of themselves. */
function special(x: Code, value: Code): Code {
  const finite = v128.bitselect(value, x, f32x4.lt(x, splatOf(Number.POSITIVE_INFINITY)))
  const zero = v128.bitselect(splatOf(Number.NEGATIVE_INFINITY), finite, f32x4.eq(x, splatOf(0)))
  return v128.bitselect(splatOf(Number.NaN), zero, f32x4.lt(x, splatOf(0)))
}

/** 1 / (1 + e^-x). */
export function sigmoid(scope: Locals, x: Code): Code {
  return f32x4.div(splatOf(1), add(splatOf(1), exp(scope, f32x4.neg(x))))
}

/** Near 0 a polynomial, because 1 - e^-2x loses digits there; elsewhere (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x. */
export function tanh(scope: Locals, x: Code): Code {
  const local = (value: Code, use: (read: Code) => Code): Code => once(scope, "v128", value, use)
  return local(x, (given) =>
    local(mul(given, given), (z) => {
      const terms = polynomial(
        scope,
        z,
        [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1],
      )
      const near = add(mul(mul(given, z), terms), given)
      return local(exp(scope, mul(f32x4.abs(given), splatOf(-2))), (e) => {
        const far = f32x4.div(sub(splatOf(1), e), add(splatOf(1), e))
        // NaN is not at least 0.625, and stays NaN in the polynomial.
        const value = v128.bitselect(far, near, f32x4.ge(f32x4.abs(given), splatOf(0.625)))
        return v128.or(value, v128.and(given, splatOf(-0)))
      })
    }),
  )
}
