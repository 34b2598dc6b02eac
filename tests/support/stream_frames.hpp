#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>

#include <drover/pool/stream.hpp>
#include <drover/wire/detail/stream_credit.hpp>

#include "support/fake_worker.hpp"

/// Streams whose worker is the test.
namespace support {

using drover::Stream;
using drover::detail::CreditBody;
using drover::detail::stream_window;

struct End {  // of an operation
  bool over = false;
  std::string error{};
  std::error_code code{};
  asio::cancellation_signal cancellation{};
};

class StreamFrames : public FakeWorkers {
 protected:
  template <class Out, class In = void>
  Stream<int, Out, In> stream(CallOptions options = {}) {
    return drover::detail::begin_stream_of<Stream<int, Out, In>>(dispatcher_, options, "f", 1);
  }
  template <class T>
  struct Operation : End {
    std::optional<T> value{};
  };
  template <class T>
  std::shared_ptr<Operation<T>> start(asio::awaitable<T> work) {
    auto operation = std::make_shared<Operation<T>>();
    const auto ended = [operation](std::exception_ptr failure, T value) {
      operation->over = true;
      failure ? note(*operation, failure) : void(operation->value = std::move(value));
    };
    asio::co_spawn(context_, std::move(work), asio::bind_cancellation_slot(operation->cancellation.slot(), ended));
    run();
    return operation;
  }
  static void note(End& end, std::exception_ptr failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const std::system_error& e) {
      end.code = e.code();
      end.error = e.what();
    } catch (const std::exception& e) {
      end.error = e.what();
    }
  }

  static FrameHeader for_call(FrameType type, const FrameHeader& call) {
    return {.type = type, .slot = call.slot, .id = call.id};
  }
  static std::vector<std::byte> encoded(const auto& value) {
    drover::detail::ByteBuffer buffer;
    drover::Encoder(buffer).put(value);
    return {buffer.view().begin(), buffer.view().end()};
  }
  static std::vector<std::byte> credit_of(std::uint64_t bytes) {
    const CreditBody credit{.bytes = bytes};
    const auto body = drover::detail::encode_body(credit);
    return {body.begin(), body.end()};
  }
  /// The credit that the parent has granted.
  static std::uint64_t granted_by(FakeWorker& worker) {
    std::uint64_t bytes = 0;
    while (const auto frame = worker.next_frame()) {
      EXPECT_EQ(frame->first.type, FrameType::credit);
      bytes += drover::detail::decode_body<CreditBody>(frame->second).value().bytes;
    }
    return bytes;
  }
  /// The text of a protocol_error.
  static std::string why(const FakeWorker& worker) {
    End end;
    if (worker.failure) note(end, worker.failure);
    EXPECT_EQ(end.code, Errc::protocol_error) << end.error;
    return end.error;
  }
};

}  // namespace support
