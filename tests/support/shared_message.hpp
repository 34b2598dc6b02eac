#pragma once

#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <drover/wire/body.hpp>
#include <drover/wire/codec.hpp>
#include <drover/wire/detail/passing.hpp>
#include <drover/wire/shared.hpp>

#include "support/descriptors.hpp"

/// Messages with shared memory, and whether they are refused.
namespace support {

using drover::DecodeError;
using drover::Decoder;
using drover::Encoder;
using drover::detail::DescriptorList;
using drover::detail::FrameBody;
using drover::detail::Kind;
using drover::detail::Raw;

using Text = drover::Shared<std::string>;
using Bytes = drover::Shared<std::vector<std::byte>>;
using Close = DescriptorList::Close;

/// A message as it arrives: other descriptors of the same files. The receiver trusts arguments of a call.
struct Message {
  explicit Message(Close close = Close::here)
      : body(close), descriptors(close == Close::here ? Close::elsewhere : Close::here) {}

  FrameBody body;
  DescriptorList descriptors;
  std::size_t most = SIZE_MAX;

  template <class... T>
  Message& with(T&&... values) {
    Encoder out(body);
    (drover::detail::put_or_move(out, body, std::forward<T>(values)), ...);
    return sent();
  }
  Message& with_file(const UniqueFd& file, std::uint64_t announced, Kind kind = Kind::shared_text) {
    Encoder out(body);
    Raw::of(out).tagged(kind, announced);
    descriptors.add(UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 3)));
    return *this;
  }
  Message& sent() {
    if (body.has_descriptors())
      for (const int fd : body.descriptors()->view()) descriptors.add(UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)));
    return *this;
  }
  template <class T>
  T get() {
    body.end_piece();
    Decoder in(body.front(), descriptors, 1 << 20);
    in.limit_shared(most);
    T result = in.get<T>();
    in.finish();
    return result;
  }
};

/// The text of the DecodeError, or "accepted".
inline std::string refusal(const std::function<void()>& decode) {
  try {
    decode();
  } catch (const DecodeError& error) {
    return error.what();
  }
  return "accepted";
}
inline std::string refusal_of(const UniqueFd& file, std::uint64_t announced, Close sender = Close::here) {
  return refusal([&] { (void)Message(sender).with_file(file, announced).get<Text>(); });
}

}  // namespace support
