defmodule EmbeddedEpmd.Cluster.Users do
  @moduledoc false
  # Whose nodes a connection of the cluster may lead to. Erlang's handshake gives whoever a VM connects to the means to
  # pass as a trusted node, so a name is not enough: another user may register it, also between the decision to connect
  # and the lookup. Hence the lookup decides, with the port that it answers.
  #
  # What the kernel told the owner of the port counts, if the owner is this VM or one that it trusts. Where that is not
  # known, the kernel is asked who listens on the port.
  #
  # `admit?/4` may run while the VM boots, so up to the table it uses plain functions only.

  alias EmbeddedEpmd.Doctor.Linux
  alias EmbeddedEpmd.HostAddress

  # The names to which connections are being made, with the users to whom these may lead.
  @table __MODULE__
  # The kernel says it of all users who have no number in this user namespace, too.
  @overflow_user 65_534

  @doc "Creates the table. It lives as long as the calling process."
  @spec new() :: :ok
  def new do
    @table = :ets.new(@table, [:named_table, :public])
    :ok
  end

  @doc "From now on, lookups of this name find the nodes of these users only."
  @spec restrict(String.t(), [non_neg_integer()]) :: true
  def restrict(name, users), do: :ets.insert(@table, {name, users})

  @doc "Lookups of this name find any node again."
  @spec release(String.t()) :: true
  def release(name), do: :ets.delete(@table, name)

  @doc "Whether a lookup of this name may find the node that was registered by this user and listens on this port."
  @spec admit?(String.t(), :inet.ip_address(), :inet.port_number(), EmbeddedEpmd.user()) :: boolean()
  def admit?(name, ip, port, user) do
    case :ets.whereis(@table) != :undefined and :ets.lookup(@table, name) do
      [{_, users}] -> :lists.member(user, users) or (user == nil and listens?(users, ip, port))
      _ -> true
    end
  end

  defp listens?(users, ip, port) do
    listeners = if HostAddress.own?(ip), do: Linux.listening(port), else: :unknown

    is_list(listeners) and listeners != [] and
      Enum.all?(listeners, &(&1.user in users and &1.user != @overflow_user))
  end
end
