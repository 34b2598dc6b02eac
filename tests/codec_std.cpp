// Types of the standard library that are more than numbers, texts and containers.
#include <bitset>
#include <chrono>
#include <complex>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <asio/error.hpp>

#include <drover/error.hpp>
#include <drover/wire/codec.hpp>

#include "support/codec.hpp"

namespace {

using namespace std::chrono;
using drover::detail::Int128;
using drover::detail::UInt128;
using support::refusal;
using support::through;

template <class... T>
void expect_unchanged(const T&... values) {
  const auto check = [](const auto& value) {
    EXPECT_TRUE(through<std::remove_cvref_t<decltype(value)>>(value) == value);
  };
  (check(values), ...);
}

TEST(SmartPointer, IsAnOptionalValue) {
  EXPECT_EQ(*through<std::shared_ptr<int>>(std::make_shared<int>(5)), 5);
  EXPECT_EQ(*through<std::shared_ptr<const std::string>>(std::make_unique<std::string>("x")), "x");
  EXPECT_EQ(through<std::shared_ptr<int>>(std::shared_ptr<int>()), nullptr);
  EXPECT_EQ(through<std::optional<int>>(std::make_shared<int>(5)), 5);
  EXPECT_EQ(*through<std::shared_ptr<long>>(7), 7);
}

TEST(SmartPointer, SharedValueArrivesOnceForEach) {
  const auto shared = std::make_shared<int>(1);
  const auto both = through<std::vector<std::shared_ptr<int>>>(std::vector{shared, shared});
  EXPECT_EQ(*both.at(0), *both.at(1));
  EXPECT_NE(both.at(0), both.at(1));
}

TEST(Bitset, ComesBackUnchanged) {
  expect_unchanged(std::bitset<0>(), std::bitset<1>(1), std::bitset<8>(0xa5), std::bitset<13>(0x1001),
                   std::bitset<64>(~0ull >> 3));
  std::bitset<1000> large;
  large.set(0).set(511).set(999);
  expect_unchanged(large, std::vector{large, ~large});
}

TEST(Bitset, OfAnotherSizeIsRefused) {
  EXPECT_EQ(refusal<std::bitset<8>>(std::bitset<9>()), "expected a bitset of 8 bits, found one of 9");
  EXPECT_EQ(refusal<std::bitset<8>>(1), "expected a bitset, found an integer");
}

TEST(Complex, ComesBackUnchanged) {
  expect_unchanged(std::complex<float>(1.5f, -2), std::complex<double>(0.1, 1e300), std::complex<long double>(1.1L, 2),
                   std::vector<std::complex<double>>{{1, 2}, {3, 4}});
  EXPECT_EQ(through<std::complex<double>>(std::complex<float>(1, 2)), std::complex<double>(1, 2));
  EXPECT_NE(refusal<std::complex<float>>(std::complex<double>(0.1, 0)), "accepted");
  EXPECT_EQ(refusal<std::complex<float>>(1.0), "expected a complex number, found a floating-point number");
}

TEST(Calendar, DatesComeBackUnchanged) {
  expect_unchanged(31d, December, 2024y, year::min(), year::max(), Sunday, Saturday, Friday[5], Monday[last], May / 4,
                   February / last, June / Tuesday[1], June / Tuesday[last], 2024y / March, 2024y / February / 29,
                   2024y / February / last, 2024y / May / Sunday[2], -1y / May / Sunday[last]);
  expect_unchanged(year_month_day(sys_days(2024y / 1 / 1)), sys_days(2024y / 1 / 1), local_days(2024y / 1 / 1));
}

TEST(Calendar, DateNeedNotExist) {
  expect_unchanged(year_month_day(), 2023y / February / 30, day(255), month(0), weekday(200));
}

TEST(Calendar, OtherDatesAreRefused) {
  EXPECT_EQ(refusal<year_month>(May / 4), "a date of another type");
  EXPECT_EQ(refusal<day>(31), "expected a date, found an integer");
  EXPECT_EQ(refusal<hh_mm_ss<seconds>>(May / 4), "a date, and not a time of day");
}

TEST(Calendar, TimesOfDayComeBackUnchanged) {
  const auto back = through<hh_mm_ss<milliseconds>>(hh_mm_ss(-25h - 3min - 1500ms));
  EXPECT_TRUE(back.is_negative());
  EXPECT_EQ(back.to_duration(), -25h - 3min - 1500ms);
  EXPECT_EQ(through<hh_mm_ss<hours>>(hh_mm_ss(7h)).hours(), 7h);
  EXPECT_NE(refusal<hh_mm_ss<seconds>>(hh_mm_ss(1500ms)), "accepted");
}

TEST(WideInteger, ComesBackUnchanged) {
  const Int128 least = std::numeric_limits<Int128>::min(), one = 1;
  expect_unchanged(Int128(0), Int128(-1), least, Int128(~least), one << 64, -(one << 64), UInt128(0), ~UInt128(0),
                   UInt128(1) << 64, std::vector<Int128>{one << 100, 2});
}

TEST(WideInteger, ConvertsIfItFits) {
  const Int128 one = 1;
  EXPECT_TRUE(through<Int128>(-5) == -5);
  EXPECT_TRUE(through<Int128>(~std::uint64_t{0}) == ~std::uint64_t{0});
  EXPECT_EQ(through<int>(Int128(-5)), -5);
  EXPECT_EQ(through<std::uint64_t>(UInt128(~std::uint64_t{0})), ~std::uint64_t{0});
  EXPECT_TRUE(through<UInt128>(one << 100) == UInt128(one << 100));
  EXPECT_TRUE(through<Int128>(UInt128(1) << 126) == one << 126);
  EXPECT_EQ(refusal<Int128>(UInt128(1) << 127), "a number that does not fit into an integer");
  EXPECT_EQ(refusal<UInt128>(-(one << 100)), "a number that does not fit into an unsigned integer");
  EXPECT_EQ(refusal<UInt128>(-1), "the number -1 does not fit into an unsigned integer of 16 bytes");
  EXPECT_EQ(refusal<long>(one << 64), "expected an integer, found an integer of 128 bits");
  EXPECT_EQ(refusal<Int128>(1.5), "expected an integer, found a floating-point number");
}

struct Category final : std::error_category {
  explicit Category(const char* of) : name_of(of) {}
  const char* name() const noexcept override { return name_of; }
  std::string message(int) const override { return "of its own"; }
  const char* name_of;
};

TEST(ErrorCode, ArrivesInTheCategoryOfItsName) {
  expect_unchanged(std::error_code(), std::make_error_code(std::errc::bad_address),
                   std::error_code(EPIPE, std::system_category()), make_error_code(drover::Errc::stopping),
                   std::make_error_code(std::io_errc::stream));
  expect_unchanged(std::error_code(asio::error::eof), std::error_code(asio::error::host_not_found),
                   std::error_code(asio::error::service_not_found), std::error_code(asio::error::operation_aborted));
  EXPECT_EQ(refusal<std::error_code>(1), "expected an error code, found an integer");
}

TEST(ErrorCode, ArrivesInACategoryThatIsAdded) {
  static const Category added("codec_std.added"), other("codec_std.added");
  drover::add_error_category(added);
  drover::add_error_category(added);
  EXPECT_THROW(drover::add_error_category(other), std::invalid_argument);
  EXPECT_EQ(through<std::error_code>(std::error_code(5, added)).message(), "of its own");
}

TEST(ErrorCode, OfAnUnknownCategoryKeepsValueAndName) {
  static const Category unknown("codec_std.unknown");
  const auto code = through<std::error_code>(std::error_code(-5, unknown));
  EXPECT_EQ(code.value(), -5);
  EXPECT_STREQ(code.category().name(), "codec_std.unknown");
  EXPECT_EQ(code.message(), "error -5 of the category \"codec_std.unknown\", which this program does not know");
  EXPECT_TRUE(code == through<std::error_code>(std::error_code(-5, unknown)));
  EXPECT_FALSE(code == std::error_code(-5, unknown));
}

TEST(ErrorCode, NamesOfCategoriesAreBounded) {
  const auto named = [](const std::string& name) {
    const Category category(name.c_str());
    return std::string(through<std::error_code>(std::error_code(1, category)).category().name());
  };
  EXPECT_EQ(named(std::string(257, 'x')), "unknown");
  int kept = 0;
  for (int i = 0; i < 1000; ++i) kept += named("category " + std::to_string(i)) == "unknown" ? 0 : 1;
  EXPECT_LE(kept, 64);
  EXPECT_GE(kept, 60);
}

}  // namespace
