defmodule EmbeddedEpmd.NetworkErrorTest do
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Doctor.NetworkError

  test "every error has words" do
    for {reason, text} <- [
          {:econnrefused, "connection refused"},
          {:nxdomain, "non-existing domain"},
          {:timeout, "no answer in time"},
          {:closed, "connection closed"},
          {:address, "whoever answers there is no EPMD, or refuses to tell"},
          {:noport, "whoever answers there is no EPMD, or refuses to tell"},
          {:formerr, ":formerr"},
          {{:unexpected, "HTTP"}, "{:unexpected, \"HTTP\"}"}
        ],
        do: assert(NetworkError.format(reason) == text)
  end
end
