#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <type_traits>

#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/codec_number.hpp>

/// Durations, which are sent with their unit, and time points, which are sent with their clock. Both clocks are the
/// same in all processes of a machine.
namespace drover { inline namespace v1 { namespace detail {

/// A unit of time in seconds.
struct Period {
  std::int64_t num = 1;
  std::int64_t den = 1;
};

/// `from` in units of `to`. Throws DecodeError if it cannot be computed exactly.
inline Period conversion(Period from, Period to) {
  const std::int64_t nums = std::gcd(from.num, to.num), dens = std::gcd(from.den, to.den);
  Period result;
  if (__builtin_mul_overflow(from.num / nums, to.den / dens, &result.num) ||
      __builtin_mul_overflow(from.den / dens, to.num / nums, &result.den))
    decode_failed("duration in a unit that cannot be converted to the expected one");
  return result;
}

template <class Rep>
Rep convert(Number number, Period factor) {
  if constexpr (std::floating_point<Rep>) {
    // Rounded, as C++ does.
    const double count = number.what == Number::Class::integer        ? static_cast<double>(number.integer)
                         : number.what == Number::Class::unsigned_int ? static_cast<double>(number.unsigned_int)
                                                                      : number.floating;
    const double result = count * static_cast<double>(factor.num) / static_cast<double>(factor.den);
    if (__builtin_isfinite(result) && __builtin_fabs(result) > static_cast<double>(std::numeric_limits<Rep>::max()))
      does_not_fit(std::to_string(result), "a floating-point number", sizeof(Rep));
    return static_cast<Rep>(result);
  } else {
    const auto den = static_cast<std::uint64_t>(factor.den);
    bool exact = true;
    if (number.what == Number::Class::integer)
      exact = number.integer % factor.den == 0 &&
              !__builtin_mul_overflow(number.integer / factor.den, factor.num, &number.integer);
    else if (number.what == Number::Class::unsigned_int)
      exact = number.unsigned_int % den == 0 &&
              !__builtin_mul_overflow(number.unsigned_int / den, factor.num, &number.unsigned_int);
    if (!exact) decode_failed("duration that is not a whole number of the expected unit, or does not fit");
    return to_number<Rep>(number);
  }
}

template <class Rep, class Ratio>
struct Wire<std::chrono::duration<Rep, Ratio>, Form::duration> {
  using Duration = std::chrono::duration<Rep, Ratio>;
  static_assert(std::is_arithmetic_v<Rep> && sizeof(Rep) <= sizeof(std::int64_t),
                "drover sends durations that count in plain numbers only.");
  static constexpr Period period{Ratio::num, Ratio::den};

  static void encode(Encoder& out, const Duration& value) {
    Raw::of(out).tagged(Kind::duration, period.num);
    Raw::of(out).fixed(period.den);
    out.put(value.count());
  }

  static Duration decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    raw.expect(Kind::duration);
    Period found;
    found.num = raw.fixed<std::int64_t>();
    found.den = raw.fixed<std::int64_t>();
    if (found.num <= 0 || found.den <= 0) decode_failed("malformed duration");
    return Duration(convert<Rep>(take_number(raw, "a number"), conversion(found, period)));
  }
};

template <class Clock>
inline constexpr std::uint8_t clock_id = 0;
template <>
inline constexpr std::uint8_t clock_id<std::chrono::system_clock> = 1;
template <>
inline constexpr std::uint8_t clock_id<std::chrono::steady_clock> = 2;

template <>
inline constexpr std::uint8_t clock_id<std::chrono::local_t> = 3;

template <class Clock, class Duration>
struct Wire<std::chrono::time_point<Clock, Duration>, Form::time_point> {
  using TimePoint = std::chrono::time_point<Clock, Duration>;
  static_assert(clock_id<Clock> != 0,
                "drover sends time points of std::chrono::system_clock and steady_clock only, and local ones.");

  static void encode(Encoder& out, const TimePoint& value) {
    Raw::of(out).tagged(Kind::time_point, clock_id<Clock>);
    out.put(value.time_since_epoch());
  }

  static TimePoint decode(Decoder& in) {
    Raw::of(in).expect(Kind::time_point);
    if (Raw::of(in).template fixed<std::uint8_t>() != clock_id<Clock>) decode_failed("time point of another clock");
    return TimePoint(in.get<Duration>());
  }
};

}}}  // namespace drover::v1::detail
