defmodule Support.Ports do
  @moduledoc """
  Ports for the servers of tests. They are below the range that the system uses for outgoing connections, and above those
  of Rust's suites, which run side by side with these (native/epmd_tools/src/ports.rs).

  This run takes them in blocks, so that no run beside it gives out the same.
  """

  use Agent

  @ports 21_000..31_999
  # How many are taken at once. The first one is for that: whoever listens there has the block.
  @block 500

  def start_link(_arguments), do: Agent.start_link(fn -> {_blocks = [], _left = []} end, name: __MODULE__)

  @doc "A port that nobody listens on, and that no other test is given."
  def free do
    port = Agent.get_and_update(__MODULE__, &next/1)

    case listen(port) do
      {:ok, socket} ->
        :gen_tcp.close(socket)
        port

      {:error, _} ->
        free()
    end
  end

  defp next({blocks, [port | left]}), do: {port, {blocks, left}}

  defp next({blocks, []}) do
    {first, block} =
      @ports |> Enum.take_every(@block) |> Enum.find_value(&take/1) || raise("no block of #{inspect(@ports)} is free")

    next({[block | blocks], Enum.to_list((first + 1)..(first + @block - 1))})
  end

  defp take(first) do
    case listen(first) do
      {:ok, socket} -> {first, socket}
      {:error, _} -> nil
    end
  end

  defp listen(port), do: :gen_tcp.listen(port, ip: {127, 0, 0, 1})
end
