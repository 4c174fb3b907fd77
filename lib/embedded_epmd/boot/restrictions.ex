defmodule EmbeddedEpmd.Boot.Restrictions do
  @moduledoc false
  # Names whose lookup finds the nodes of certain users only: those to which `EmbeddedEpmd.Cluster` is connecting.
  # Erlang's handshake gives whoever a VM connects to the means to pass as a trusted node, so a name is not enough:
  # another user may register it, also between the decision to connect and the lookup. Hence the lookup decides, with the
  # port that it answers.
  #
  # What the kernel told the owner of the port counts, if the owner is this VM or one that it trusts. Where that is not
  # known, a function that comes with the restriction says whether the users listen on the port. It reads files, which
  # this code must not do.

  @table __MODULE__

  @typedoc "Whether these users listen on a port of an address, and nobody else does."
  @type listen? :: ([non_neg_integer()], :inet.ip_address(), :inet.port_number() -> boolean())

  @doc "Creates the table. It lives as long as the calling process."
  @spec new() :: :ok
  def new do
    @table = :ets.new(@table, [:named_table, :public])
    :ok
  end

  @doc "From now on, lookups of this name find the nodes of these users only."
  @spec restrict(String.t(), [non_neg_integer()], listen?()) :: true
  def restrict(name, users, listen?), do: :ets.insert(@table, {name, users, listen?})

  @doc "Lookups of this name find any node again."
  @spec release(String.t()) :: true
  def release(name), do: :ets.delete(@table, name)

  @doc "Whether a lookup of this name may find the node that was registered by this user and listens on this port."
  @spec admit?(String.t(), :inet.ip_address(), :inet.port_number(), EmbeddedEpmd.user()) :: boolean()
  def admit?(name, ip, port, user) do
    case :ets.whereis(@table) != :undefined and :ets.lookup(@table, name) do
      [{_, users, listen?}] -> :lists.member(user, users) or (user == nil and listen?.(users, ip, port))
      _ -> true
    end
  end
end
