defmodule EmbeddedEpmd.Cluster.Users do
  @moduledoc false
  # Which users listen on a port, as far as the kernel tells this VM: /proc shows it of this host.

  alias EmbeddedEpmd.Boot.HostAddress
  alias EmbeddedEpmd.Doctor.Linux

  # The kernel says it of all users who have no number in this user namespace, too.
  @overflow_user 65_534

  @doc "Whether these users listen on a port of this host, and nobody else does."
  @spec listen?([non_neg_integer()], :inet.ip_address(), :inet.port_number()) :: boolean()
  def listen?(users, ip, port) do
    listeners = if HostAddress.own?(ip), do: Linux.listening(port), else: :unknown

    is_list(listeners) and listeners != [] and
      Enum.all?(listeners, &(&1.user in users and &1.user != @overflow_user))
  end
end
