defmodule EmbeddedEpmd.Doctor.Connection.Name do
  @moduledoc false
  # The step `:name`: whether this node can connect to a node of such a name at all.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection

  # The names that `net_kernel` accepts for a node.
  @name ~r/^[0-9A-Za-z_-]+$/
  @longest_atom 255

  @spec examine(Connection.state()) :: Connection.step()
  def examine(%{node: node} = state) do
    case String.split(node, "@") do
      [name, host] when name != "" and host != "" and byte_size(node) <= @longest_atom ->
        state = Map.merge(state, %{name: name, host: host, atom: String.to_atom(node)})
        kind = if state.here, do: :net_kernel.longnames()
        {judge(state, kind), state}

      _ ->
        {[malformed(node)], state}
    end
  end

  defp malformed(node) do
    problem(
      "#{inspect(node)} is no name of a node.",
      "A node is called NAME@HOST, 255 bytes at most.",
      "Ask for the name that Node.self() gives there."
    )
  end

  @doc false
  @spec judge(Connection.state(), boolean() | :ignored | nil) :: [EmbeddedEpmd.Doctor.Finding.t()]
  def judge(%{node: node, atom: here, here: here}, _kind),
    do: [problem("#{node} is this node.", "A node does not connect to itself.", "Ask for another node.")]

  def judge(%{host: host} = state, kind) do
    dotted = host =~ "."

    cond do
      kind == false and dotted ->
        [
          problem(
            "This node, #{state.here}, has a short name, and #{state.node} has a long one.",
            "Nodes of the two kinds do not connect: a short name's host has no dot.",
            "Start both with -name, or both with -sname (RELEASE_DISTRIBUTION=name or sname)."
          )
        ]

      kind == true and not dotted and not ipv6?(host) ->
        [
          problem(
            "This node, #{state.here}, has a long name, and #{state.node} has a short one.",
            "Nodes of the two kinds do not connect: a long name's host has a dot, or is an address.",
            "Start both with -name, or both with -sname (RELEASE_DISTRIBUTION=name or sname)."
          )
        ]

      true ->
        characters(state) ++ localhost(state) ++ [named(state)]
    end
  end

  defp ipv6?(host), do: match?({:ok, _}, :inet.parse_ipv6strict_address(String.to_charlist(host)))

  defp named(%{here: nil, node: node}), do: ok("This VM is no node; it asks for #{node} as one would.")

  defp named(%{atom: atom, node: node, here: here}) do
    if atom in Node.list(:connected),
      do: ok("#{here} is connected to #{node} now."),
      else: ok("#{here} may ask for #{node}: both have names of one kind.")
  end

  defp characters(%{name: name, node: node}) do
    if name =~ @name do
      []
    else
      [
        warning(
          "#{node} has characters that OTP gives no node.",
          "Before the @ there are letters, digits, _ and - only; a C node may be called otherwise.",
          "Compare it with the name that Node.self() gives there."
        )
      ]
    end
  end

  defp localhost(%{host: "localhost", node: node}) do
    [
      warning(
        "The host of #{node} is localhost.",
        "That is always this machine or this container.",
        "If the node runs elsewhere, give it a host that resolves to that machine."
      )
    ]
  end

  defp localhost(%{here: here} = state) when here != nil do
    if String.ends_with?(Atom.to_string(here), "@localhost") do
      [
        warning(
          "The host of this node, #{here}, is localhost.",
          "#{state.node} cannot connect to it from another machine.",
          "Give this node a host that other machines resolve to this one."
        )
      ]
    else
      []
    end
  end

  defp localhost(_state), do: []
end
