#pragma once

#include <cstddef>
#include <memory>

#include <drover/detail/config.hpp>
#include <drover/os/detail/shared_memory.hpp>
#include <drover/os/fd.hpp>

/// Shared memory that another process has sent.
namespace drover { inline namespace v1 { namespace detail {

/// Whether the sender is trusted not to change memory while it is read.
enum class Sender : bool { trusted, untrusted };

/// Maps `size` bytes, at least one, that the sender says the file has. From an untrusted sender it has to be sealed, so
/// that nobody can change or truncate it. Nothing that is called for another kind of file may block.
/// Throws DecodeError if it is not such memory, and std::system_error if this process cannot map it.
std::shared_ptr<const SharedMemory> receive_memory(UniqueFd file, std::size_t size, Sender sender);

}}}  // namespace drover::v1::detail

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/wire/detail/received_memory.ipp>
#endif
