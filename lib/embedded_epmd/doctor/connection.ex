defmodule EmbeddedEpmd.Doctor.Connection do
  @moduledoc false
  # Finds out why this node does not connect to another: performs the steps of a connection, up to the first that
  # fails.

  alias EmbeddedEpmd.Boot.Environment
  alias EmbeddedEpmd.Doctor.Connection.{Address, Admission, Epmd, Here, Identity, Name, Port}
  alias EmbeddedEpmd.Doctor.Finding
  alias EmbeddedEpmd.{Discovery, Doctor}

  @steps [
    name: &Name.examine/1,
    here: &Here.examine/1,
    address: &Address.examine/1,
    epmd: &Epmd.examine/1,
    port: &Port.examine/1,
    handshake: &Admission.examine/1,
    identity: &Identity.examine/1
  ]

  @typedoc "What the steps so far have found out about the connection."
  @type state :: map()
  @typedoc """
  A step's findings, and what the next steps need. No further step is performed after a problem, nor over a carrier that
  nobody here knows.
  """
  @type step :: {[Finding.t()], state()}

  @spec examine(node() | String.t()) :: [Finding.t()]
  def examine(node) do
    # A process of its own, so that all sockets are closed at its end.
    Task.await(Task.async(fn -> one_at_a_time(fn -> run(@steps, initial_state(to_string(node))) end) end), :infinity)
  end

  # One examination at a time: all probes of this VM have one name, and a second one would replace the first.
  defp one_at_a_time(examination), do: :global.trans({__MODULE__, self()}, examination, [node()])

  defp initial_state(node) do
    {tls, family} = protocol()

    %{
      node: node,
      here: if(Node.alive?(), do: node()),
      tls: tls,
      family: family,
      # If this VM is not a node, examine what a node with `embedded_epmd` would do.
      discovery: if(Node.alive?(), do: :net_kernel.epmd_module(), else: Discovery)
    }
  end

  defp protocol do
    if Environment.examinable?(),
      do: {Environment.tls?(), Environment.family()},
      else: {false, {:unknown, to_string(Environment.protocol())}}
  end

  defp run([], _state), do: []

  defp run([{step, examine} | steps], state) do
    started = System.monotonic_time()
    {findings, state} = examine.(state)
    took = System.convert_time_unit(System.monotonic_time() - started, :native, :microsecond)
    findings = for finding <- findings, do: Map.merge(finding, %{step: step, took: took})
    ends? = Enum.any?(findings, &(&1.status == :problem)) or match?(%{family: {:unknown, _}}, state)
    if ends?, do: findings, else: findings ++ run(steps, state)
  end

  @doc "The findings as text, the last one of each step with the time that the step took."
  @spec format([Finding.t()]) :: String.t()
  def format(findings) do
    findings
    |> Enum.chunk_by(& &1.step)
    |> Enum.flat_map(fn findings -> List.update_at(findings, -1, &timed/1) end)
    |> Doctor.format()
  end

  defp timed(%{what: what, took: took} = finding),
    do: %{finding | what: "#{what} (#{:erlang.float_to_binary(took / 1_000, decimals: 1)} ms)"}
end
