defmodule EmbeddedEpmd.Doctor.Connection.Here do
  @moduledoc false
  # The step `:here`: settings of this VM that prevent a connection, or make it end.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection

  @usual_ticktime 60

  @spec examine(Connection.state()) :: Connection.step()
  def examine(state) do
    facts = if state.here, do: facts(state.atom), else: %{}
    {judge(state, facts), state}
  end

  defp facts(other) do
    %{
      dist_listen: :init.get_argument(:dist_listen) != {:ok, [[~c"false"]]},
      hidden: :init.get_argument(:hidden) != :error,
      auto_connect: Application.get_env(:kernel, :dist_auto_connect),
      connect_all: Application.get_env(:kernel, :connect_all, true) != false,
      own_cookie: :erlang.get_cookie() != :erlang.get_cookie(other),
      ticktime: :net_kernel.get_net_ticktime(),
      allowed: :net_kernel.allowed()
    }
  end

  @doc false
  @spec judge(Connection.state(), map()) :: [EmbeddedEpmd.Doctor.Finding.t()]
  # It may well work.
  def judge(%{family: {:unknown, protocol}} = state, _facts) do
    connected? = state[:atom] in :erlang.nodes(:connected)

    [
      warning(
        "The distribution of this VM is #{protocol}#{if connected?, do: ", and #{state.node} is connected"}.",
        "Only TCP and TLS over IPv4 and IPv6 can be examined.",
        "Look at the documentation of whatever brought -proto_dist #{protocol}."
      )
    ]
  end

  def judge(state, facts) do
    case Enum.flat_map(facts, &about(&1, state)) do
      [] -> [ok("No setting of this VM stands in the way.")]
      findings -> findings
    end
  end

  defp about({:dist_listen, false}, state) do
    [
      warning(
        "This node does not listen (-dist_listen false).",
        "It can connect to #{state.node}; that one cannot connect to it.",
        "Have this side connect, or remove -dist_listen false."
      )
    ]
  end

  defp about({:hidden, true}, state) do
    [
      warning(
        "This node is hidden (-hidden).",
        "Once connected, #{state.node} lists it in Node.list(:hidden) only, and does not connect it to further nodes.",
        "Remove -hidden if it is to be a member of the cluster."
      )
    ]
  end

  defp about({:auto_connect, how}, _state) when how in [:never, :once] do
    [
      warning(
        "This node has dist_auto_connect #{how}.",
        if(how == :never,
          do: "A message or a call to another node does not connect it, only Node.connect/1 does.",
          else: "After a connection was lost, only Node.connect/1 makes it again."
        ),
        "Call Node.connect/1, or remove dist_auto_connect from the parameters of kernel."
      )
    ]
  end

  defp about({:connect_all, false}, state) do
    [
      warning(
        "This node has connect_all false.",
        "When it connects to one node of a cluster, it does not connect to the others automatically.",
        "Call Node.connect/1 for #{state.node} itself."
      )
    ]
  end

  defp about({:own_cookie, true}, state) do
    [
      warning(
        "This node has a cookie for #{state.node} alone (Node.set_cookie/2).",
        "This connection uses that cookie, and not the one of Node.get_cookie().",
        "If the cookies differ below, look for the call that set it."
      )
    ]
  end

  defp about({:ticktime, seconds}, state) when is_integer(seconds) and seconds != @usual_ticktime do
    [
      warning(
        "This node has a net_ticktime of #{seconds} seconds.",
        "If #{state.node} has another one, such as OTP's default of #{@usual_ticktime}, each may consider the other dead.",
        "Set the same net_ticktime in all nodes."
      )
    ]
  end

  defp about({:allowed, {:ok, [_ | _] = allowed}}, state) do
    if allowed?(allowed, state) do
      []
    else
      [
        problem(
          "This node does not allow #{state.node} (:net_kernel.allow/1).",
          "It connects with these only, in both directions: #{Enum.map_join(allowed, ", ", &to_string/1)}.",
          "Call :net_kernel.allow([:\"#{state.node}\"]) here."
        )
      ]
    end
  end

  defp about(_fact, _state), do: []

  # An entry is a node, a host, or `NAME@`.
  defp allowed?(allowed, state), do: Enum.any?(allowed, &(to_string(&1) in [state.node, state.host, state.name <> "@"]))
end
