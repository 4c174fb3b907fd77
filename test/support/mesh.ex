defmodule Support.Mesh do
  @moduledoc """
  Functions for `:endpoints`, as a user might write them.
  """

  def mine("mine@" <> _), do: {"10.0.0.9", 9}
  def mine(_node), do: nil

  def raises(_node), do: raise("no")

  def hangs(_node), do: Process.sleep(:infinity)

  def wrong(_node), do: :wrong
end
