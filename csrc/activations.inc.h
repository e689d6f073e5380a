/* exp, sigmoid, tanh, hard sigmoid and relu on vectors: no branches, no tables, one division.
 *
 * exp(y) = (1 + p) s, where s = 2^n and n is the whole number next to y / ln 2: adding a magic
 * number rounds to it, in the low bits of the sum, already biased, so that a shift makes s of it.
 * p = expm1(r) is a polynomial in the rest r = y - n ln 2, |r| <= ln(2)/2.
 *
 * Errors in float32, over all inputs (make test-ulp): exp 1.31, sigmoid 1.85, tanh 1.28 ULP. Tried:
 * tanh as e / (e + 2) with e = expm1(2|x|), 2.5 ULP near 0 even with its sums exact; exp reduced by one
 * product, as tanh is, 2.2 ULP, and with that mended no faster; sigmoid with 1 + p rounded before the
 * product with s, 2.5 ULP; a rational tanh, 4.4 ULP; on AVX-512 an estimated reciprocal with two steps of
 * Newton's, the first one rounded upward, which is always correctly rounded: no faster, as the other
 * operations hide the division. Several curves at once, step by step: 15 to 20 % less time by themselves
 * on AVX-512; an LSTM's three sigmoids at once 1.5 % for a layer, which was not worth arrays in every
 * function here; gates in passes of their own over a tile, so that there are four, 1 to 8 % more for a
 * layer: the products next to them fill the gaps, too. Both polynomials of tanh as one, whose coefficients
 * are chosen for each element: five operations less, and 5 % more for an LSTM.
 */

#if REAL_BITS == 32
#define MANTISSA 23
#define BIAS 127
#define MAGIC 12582912.0f /* 1.5 * 2^23 */
#define LN2_HIGH 0.693145751953125f /* exact when multiplied by n */
#define LN2_LOW 1.4286068203094173e-06f
#define EXP_LEAST -104.0f /* below, exp is 0; above the greatest, infinite */
#define EXP_GREATEST 89.0f
#define SIGMOID_LEAST -40.0f /* from there on exp(y) is nothing beside 1 */
#define SIGMOID_GREATEST 105.0f /* from there on 1 / exp(y) is 0 */
#define TANH_GREATEST 10.0f /* from there on tanh is 1 */
static const real EXPM1[] = {0.5000000062168918f, 0.16666542591159061f, 0.04166628089280066f,
                             0.008366639590941945f, 0.0013946539862021777f};
static const real TANH_SMALL[] = {-0.33333298563957214f, 0.13331924378871918f,
                                  -0.053783830255270004f, 0.020795969292521477f,
                                  -0.005895155481994152f};
#else
#define MANTISSA 52
#define BIAS 1023
#define MAGIC 6755399441055744.0 /* 1.5 * 2^52 */
#define LN2_HIGH 0x1.62e42fefa2000p-1
#define LN2_LOW 7.371002565167799e-13
#define EXP_LEAST -746.0
#define EXP_GREATEST 710.0
#define SIGMOID_LEAST -80.0
#define SIGMOID_GREATEST 746.0
#define TANH_GREATEST 20.0
static const real EXPM1[] = {0.5, 0.16666666666666677, 0.0416666666666667, 0.008333333333321544,
                             0.0013888888888866676, 0.00019841269886369432, 2.4801587360901634e-05,
                             2.755724394178834e-06, 2.755724244534363e-07, 2.5109137391236525e-08,
                             2.0924545343076347e-09};
static const real TANH_SMALL[] = {
    -0.3333333333333333, 0.13333333333333205, -0.05396825396808531, 0.021869488527368107,
    -0.008863235292803289, 0.0035921242500086925, -0.0014557958855734635, 0.0005897680994688268,
    -0.00023795201383924994, 9.332432233847448e-05, -3.2086614037935994e-05,
    6.934046420988954e-06};
#endif
#define TANH_IS_SMALL (real)0.6
#define LOG2_E (real)1.4426950408889634
#define LN2 (real)0.6931471805599453 /* nearer than its last bit says: to 2^-28, 2^-55 of itself */
enum { MOST_COEFFICIENTS = 12 };

/* coefficients[0] + x coefficients[1] + x^2 ..., or the same of -x; `count` is a constant. In pairs, as a
 * step of a small network waits for little else. */
INLINE vec estrin(const real *coefficients, const int count, vec x, const int of_minus_x)
{
    vec q[MOST_COEFFICIENTS], power = x;
    UNROLL
    for (int k = 0; k < count; k++)
        q[k] = spread(of_minus_x && k % 2 ? -coefficients[k] : coefficients[k]);
    UNROLL
    for (int s = 1; s < count; s *= 2) {
        UNROLL
        for (int k = 0; k + s < count; k += 2 * s)
            q[k] = fma_(power, q[k + s], q[k]);
        power = power * power;
    }
    return q[0];
}

/* The same of x, with a product less, where nothing waits for it. */
INLINE vec horner(const real *coefficients, const int count, vec x)
{
    vec q = spread(coefficients[count - 1]);
    UNROLL
    for (int k = count - 2; k >= 0; k--)
        q = fma_(q, x, spread(coefficients[k]));
    return q;
}
#define COUNT(coefficients) (int)(sizeof(coefficients) / sizeof(real))

/* expm1(r), |r| <= ln(2)/2, or expm1(-r): the sign goes into the constants. */
INLINE vec expm1_(vec r, const int minus)
{
    vec square = r * r, first = fma_(square, estrin(EXPM1, 2, r, minus), minus ? -r : r);
    return fma_(square * square, estrin(EXPM1 + 2, COUNT(EXPM1) - 2, r, minus), first);
}

/* Return p and put 2^shift s into *s, where exp(y) = (1 + p) s; magic is MAGIC + BIAS + shift. If
 * `minus`, of -y instead. */
INLINE vec exp_parts(vec y, vec magic, vec *s, const int minus)
{
    vec t = fma_(y, spread(minus ? -LOG2_E : LOG2_E), magic);
    vec n = t - magic;
    *s = (vec)((ivec)t << MANTISSA);
    if (minus) /* r is minus the rest */
        return expm1_(fma_(n, spread(LN2_LOW), fma_(n, spread(LN2_HIGH), y)), 1);
    return expm1_(fma_(n, spread(-LN2_LOW), fma_(n, spread(-LN2_HIGH), y)), 0);
}

/* Scaled by 2^64 or 2^-64, so that the result may be denormal or infinite. */
INLINE vec exp_(vec x)
{
    const vec zero = {0};
    vec magic = select_less(x, zero, spread(MAGIC + (BIAS + 64)), spread(MAGIC + (BIAS - 64)));
    vec back = select_less(x, zero, spread((real)0x1p-64), spread((real)0x1p64));
    vec s, p = exp_parts(min_(max_(x, EXP_LEAST), EXP_GREATEST), magic, &s, 0);
    return fma_(p, s, s) * back;
}

/* 1 / (1 + exp(-x)). All is scaled by 2^-64, so that the result may be denormal. */
INLINE vec sigmoid(vec x)
{
    const vec one = spread((real)0x1p-64);
    vec s, limited = min_(max_(x, -SIGMOID_GREATEST), -SIGMOID_LEAST);
    vec p = exp_parts(limited, spread(MAGIC + (BIAS - 64)), &s, 1);
    vec sum = s + one;
    vec lost = one - (sum - s); /* of 1 when s is large */
    return one / (sum + fma_(p, s, lost));
}

/* 1 - 2 / (exp(2|x|) + 1), or a polynomial near zero, with the sign of x. */
INLINE vec tanh_(vec x)
{
    const ivec sign_bit = (ivec)spread((real)-0.0);
    const vec magic = spread(MAGIC + BIAS);
    ivec sign = (ivec)x & sign_bit;
    vec size = (vec)((ivec)x & ~sign_bit), square = size * size;
    vec small = fma_(square * size, horner(TANH_SMALL, COUNT(TANH_SMALL), square), size);
    vec limited = min_(size, TANH_GREATEST);
    vec t = fma_(limited, spread(2 * LOG2_E), magic), s = (vec)((ivec)t << MANTISSA);
    vec p = expm1_(fma_(t - magic, spread(-LN2), limited + limited), 0);
    vec one = (vec)((ivec)spread(1) | sign), two = (vec)((ivec)spread(2) | sign);
    vec large = one - two / fma_(p, s, s + (real)1);
    return select_less(size, spread(TANH_IS_SMALL), (vec)((ivec)small | sign), large);
}

/* clip(0.2 x + 0.5, 0, 1); NaN stays NaN. */
INLINE vec hard_sigmoid(vec x)
{
    return min_(max_(fma_(x, spread((real)0.2), spread((real)0.5)), (real)0), (real)1);
}

/* max(x, 0); NaN stays NaN. */
INLINE vec relu(vec x)
{
    return max_(x, (real)0);
}

/* A gate, `hard` being a constant, and from its value y the gradient of its pre-activation out of its
 * own; the slope of a hard one is 0 at 0 and at 1. */
INLINE vec gate(vec x, const int hard)
{
    return hard ? hard_sigmoid(x) : sigmoid(x);
}

INLINE vec gate_gradient(vec d, vec y, const int hard)
{
    if (!hard)
        return d * y * ((real)1 - y);
    vec below_one = select_less(y, spread(1), spread((real)0.2), spread(0));
    return d * select_less(spread(0), y, below_one, spread(0));
}
