#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <drover/wire/body.hpp>
#include <drover/wire/detail/codec_form.hpp>
#include <drover/wire/detail/received_memory.hpp>
#include <drover/wire/shared.hpp>

/// Shared text and bytes. A message has their size; the memory is attached to it as a descriptor, unless the size is 0.
namespace drover { inline namespace v1 { namespace detail {

template <class T>
struct Wire<Shared<T>, Form::shared> {
  static constexpr Kind kind = std::is_same_v<T, std::string> ? Kind::shared_text : Kind::shared_bytes;

  static void encode(Encoder& out, const Shared<T>& value) {
    FrameBody* const message = Raw::of(out).message();
    if (message == nullptr)
      throw std::invalid_argument("shared memory can only be sent as an argument or a result of a call");
    if (!value.empty()) {
      std::shared_ptr<const SharedMemory> memory = SharedAccess::memory(value);
      // Its creator fills it anew once the call has ended in which it came.
      const bool stays = memory->sealing() == Sealing::sealed || message->may_lend();
      if (!stays || !memory->has_file()) memory = SharedMemory::copy_of({memory->data(), value.size()});
      message->attach(std::move(memory), value.size());
    }
    Raw::of(out).tagged(kind, std::uint64_t{value.size()});
  }

  static Shared<T> decode(Decoder& in) {
    RawDecoder& raw = Raw::of(in);
    raw.expect(kind);
    const auto size = raw.fixed<std::uint64_t>();
    if (size == 0) return {};
    return SharedAccess::make<T>(raw.take_memory(size), static_cast<std::size_t>(size));
  }
};

}}}  // namespace drover::v1::detail
