#pragma once

#include <fcntl.h>
#include <stdexcept>
#include <string>
#include <utility>

#include <drover/os/fd.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/detail/codec_form.hpp>

/// Descriptors. A message names the kind of the value only; the descriptors are attached to it in the order of their
/// values.
namespace drover { inline namespace v1 { namespace detail {

inline void put_descriptor(RawEncoder& out, UniqueFd descriptor) {
  if (!descriptor)
    throw std::invalid_argument(
        "a drover::UniqueFd that owns no descriptor can't be sent: use std::optional<drover::UniqueFd>");
  if (::fcntl(descriptor.get(), F_GETFD) < 0)
    throw_errno("descriptor " + std::to_string(descriptor.release()) + " can't be sent");
  if (out.message() == nullptr)
    throw std::invalid_argument("a descriptor can only be sent as an argument or a result of a call");
  out.message()->attach(std::move(descriptor));
  out.kind(Kind::descriptor);
}

template <>
struct Wire<UniqueFd, Form::descriptor> {
  static void encode(Encoder& out, const UniqueFd& value) {
    UniqueFd copy(value ? ::fcntl(value.get(), F_DUPFD_CLOEXEC, 3) : -1);
    if (value && !copy) throw_errno("descriptor " + std::to_string(value.get()) + " can't be duplicated to be sent");
    put_descriptor(Raw::of(out), std::move(copy));
  }

  static UniqueFd decode(Decoder& in) {
    Raw::of(in).expect(Kind::descriptor);
    return Raw::of(in).take_descriptor();
  }
};

}}}  // namespace drover::v1::detail
