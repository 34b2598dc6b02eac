# The interface of the Cap'n Proto peer.
@0xb45a77aeaf36f7c1;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("peers::schema");

interface Echo {
  call @0 (data :Data) -> (data :Data);    # returns its argument
  take @1 (data :Data) -> (size :UInt64);  # returns the size of its argument
}
